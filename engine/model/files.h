// Reading files that may change or lie: regular files only, explicit sizes, full reads or an error.
// A descriptor belongs to its owner; ReadAt is thread-safe.
#ifndef EVENFLOW_ENGINE_MODEL_FILES_H_
#define EVENFLOW_ENGINE_MODEL_FILES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace evenflow {

class FileDescriptor {
 public:
  explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}

  FileDescriptor(FileDescriptor&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)) {}

  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }

  ~FileDescriptor();

  // Reads exactly `bytes`; DATA_LOSS when the file ends before.
  absl::Status ReadAt(uint64_t offset, size_t bytes, void* to) const;

 private:
  int descriptor_;
};

// NOT_FOUND, PERMISSION_DENIED; INVALID_ARGUMENT for what is no regular file. Messages name `path`.
absl::StatusOr<FileDescriptor> OpenRegularFile(const std::string& path, uint64_t* file_bytes);

// The whole file; INVALID_ARGUMENT beyond `max_bytes`.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, uint64_t max_bytes);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_FILES_H_
