// A whole safetensors file from outside: whatever its header says, tensors lie inside the file.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "engine/model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string file(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<uint64_t> header_bytes =
      evenflow::SafetensorsHeaderBytes(file.substr(0, 8), size);
  if (!header_bytes.ok()) {
    return 0;
  }
  const absl::StatusOr<evenflow::TensorTable> tensors =
      evenflow::ParseSafetensorsHeader(file.substr(8, *header_bytes - 8), size);
  if (!tensors.ok()) {
    return 0;
  }
  uint64_t total = *header_bytes;
  for (const auto& [name, entry] : *tensors) {
    if (entry.begin < *header_bytes || entry.begin > size || entry.bytes > size - entry.begin ||
        entry.elements < 0) {
      std::abort();
    }
    total += entry.bytes;
  }
  if (total != size) {
    std::abort();
  }
  return 0;
}
