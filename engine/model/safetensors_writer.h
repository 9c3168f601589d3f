// Writer of one safetensors file, tensor by tensor. The file appears under its name only when it is
// complete. One owner, one thread.
#ifndef EVENFLOW_ENGINE_MODEL_SAFETENSORS_WRITER_H_
#define EVENFLOW_ENGINE_MODEL_SAFETENSORS_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace evenflow {

struct TensorHeader {
  std::string name;
  std::string dtype;  // "F32", "F16" or "BF16"
  std::vector<int64_t> shape;
};

class SafetensorsWriter {
 public:
  // Writes the header. Errors name `path`.
  static absl::StatusOr<SafetensorsWriter> Create(const std::string& path,
                                                  const std::vector<TensorHeader>& tensors);
  SafetensorsWriter(SafetensorsWriter&&) = default;
  // Removes the file unless Finish() succeeded.
  ~SafetensorsWriter();

  // Appends data: all tensors in the order of the header, in as many parts as the caller likes.
  absl::Status Append(const void* data, size_t bytes);
  // REQUIRES: all data was appended.
  absl::Status Finish();

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  SafetensorsWriter(std::string path, std::FILE* file) : path_(std::move(path)), file_(file) {}

  std::string PartialPath() const { return path_ + ".partial"; }

  std::string path_;
  std::unique_ptr<std::FILE, Closer> file_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_SAFETENSORS_WRITER_H_
