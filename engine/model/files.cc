#include "engine/model/files.h"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace evenflow {

FileDescriptor::~FileDescriptor() {
  if (descriptor_ >= 0) {
    close(descriptor_);
  }
}

absl::Status FileDescriptor::ReadAt(uint64_t offset, size_t bytes, void* to) const {
  auto* out = static_cast<char*>(to);
  size_t done = 0;
  while (done < bytes) {
    const size_t wanted = std::min(bytes - done, size_t{1} << 30);
    const ssize_t got = pread(descriptor_, out + done, wanted, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return absl::ErrnoToStatus(errno, "cannot be read");
    }
    if (got == 0) {
      return absl::DataLossError(absl::StrCat("ends at byte ", offset + done, "; expected ",
                                              offset + bytes, " bytes (shortened while read?)"));
    }
    done += static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

absl::StatusOr<FileDescriptor> OpenRegularFile(const std::string& path, uint64_t* file_bytes) {
  // Without O_NONBLOCK a FIFO in the place of a file would block for ever.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be opened"));
  }
  FileDescriptor file(descriptor);
  struct stat info = {};
  if (fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file"));
  }
  *file_bytes = static_cast<uint64_t>(info.st_size);
  return file;
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, uint64_t max_bytes) {
  uint64_t bytes = 0;
  absl::StatusOr<FileDescriptor> file = OpenRegularFile(path, &bytes);
  if (!file.ok()) {
    return file.status();
  }
  if (bytes > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has ", bytes, " bytes; at most ", max_bytes, " are allowed"));
  }
  std::string text(bytes, '\0');
  if (absl::Status status = file->ReadAt(0, text.size(), text.data()); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  }
  return text;
}

}  // namespace evenflow
