#include "engine/model/safetensors_writer.h"

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace evenflow {

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(
    const std::string& path, const std::vector<TensorHeader>& tensors) {
  nlohmann::json header = nlohmann::json::object();
  uint64_t offset = 0;
  for (const TensorHeader& tensor : tensors) {
    uint64_t bytes = tensor.dtype == "F32" ? 4 : 2;
    for (const int64_t size : tensor.shape) {
      bytes *= static_cast<uint64_t>(size);
    }
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data begins at a multiple of 8
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; ++i) {
    length[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  }
  SafetensorsWriter writer(path, nullptr);
  writer.file_.reset(std::fopen(writer.PartialPath().c_str(), "wb"));
  if (writer.file_ == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be written"));
  }
  text.insert(0, length);
  if (absl::Status status = writer.Append(text.data(), text.size()); !status.ok()) {
    return status;
  }
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_ != nullptr) {
    file_.reset();
    std::remove(PartialPath().c_str());
  }
}

absl::Status SafetensorsWriter::Append(const void* data, size_t bytes) {
  if (std::fwrite(data, 1, bytes, file_.get()) != bytes) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": cannot be written"));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  if (std::fflush(file_.get()) != 0 || std::rename(PartialPath().c_str(), path_.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": cannot be written"));
  }
  file_.reset();
  return absl::OkStatus();
}

}  // namespace evenflow
