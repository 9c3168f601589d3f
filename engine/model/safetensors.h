// Reader of a checkpoint's tensors: model.safetensors, or the shards that
// model.safetensors.index.json names. Headers are hostile until checked; data is copied out, never
// mapped, so that a file changed later cannot hurt. Const methods are thread-safe.
#ifndef EVENFLOW_ENGINE_MODEL_SAFETENSORS_H_
#define EVENFLOW_ENGINE_MODEL_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace evenflow {

struct TensorEntry {
  std::string dtype;           // as the file spells it: "BF16"
  std::vector<int64_t> shape;  // each >= 0
  int64_t elements = 0;        // their product
  uint64_t begin = 0;          // bytes from the start of the file; any alignment
  uint64_t bytes = 0;
  int file = 0;  // index of the file that holds it
};

// Tensors by name.
using TensorTable = std::map<std::string, TensorEntry, std::less<>>;

// The length of the header that the first 8 bytes of a file announce, those 8 bytes included.
// INVALID_ARGUMENT when it is beyond the file or beyond 100 MB.
absl::StatusOr<uint64_t> SafetensorsHeaderBytes(absl::string_view first_bytes, uint64_t file_bytes);

// Reads a header (JSON, without the 8 bytes before it) of a file of `file_bytes`. INVALID_ARGUMENT
// names the tensor, what was found and what is expected, unless the tensors cover the data after
// the header exactly, without overlap or gap, each having the size of its shape and dtype.
absl::StatusOr<TensorTable> ParseSafetensorsHeader(const std::string& header, uint64_t file_bytes);

class Safetensors {
 public:
  // `path` is a checkpoint directory or one file. NOT_FOUND, INVALID_ARGUMENT with the file's name.
  static absl::StatusOr<Safetensors> Open(const std::string& path);
  Safetensors(Safetensors&&) noexcept;
  Safetensors& operator=(Safetensors&&) noexcept;
  ~Safetensors();

  const TensorTable& tensors() const { return tensors_; }

  const std::string& file_name(const TensorEntry& tensor) const;

  // Copies bytes [offset, offset + bytes) of the tensor's data. DATA_LOSS when the file got
  // shorter.
  absl::Status ReadBytes(const TensorEntry& tensor, uint64_t offset, size_t bytes, void* to) const;
  // Elements [first, first + count) as fp32, exactly. REQUIRES: dtype F32, F16 or BF16.
  absl::Status ReadFloats(const TensorEntry& tensor, int64_t first, int64_t count, float* to) const;

 private:
  struct File;
  Safetensors();
  absl::Status AddFile(const std::string& path);
  absl::Status AddShards(const std::string& directory, const std::string& index_path);

  std::vector<File> files_;
  TensorTable tensors_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_SAFETENSORS_H_
