// What a model has allocated from its backend, freed together. Owned by the model; engine thread.
#ifndef EVENFLOW_ENGINE_MODEL_BACKEND_MEMORY_H_
#define EVENFLOW_ENGINE_MODEL_BACKEND_MEMORY_H_

#include <cstddef>
#include <vector>

#include "kernels/backend.h"

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace evenflow {

class BackendMemory {
 public:
  explicit BackendMemory(Backend& backend) : backend_(backend) {}

  BackendMemory(const BackendMemory&) = delete;
  BackendMemory& operator=(const BackendMemory&) = delete;

  ~BackendMemory() {
    for (void* block : blocks_) {
      backend_.Free(block);
    }
  }

  // Zeroed, 64-byte aligned. RESOURCE_EXHAUSTED when there is none left.
  absl::StatusOr<void*> Allocate(size_t bytes) {
    void* block = backend_.Allocate(bytes);
    if (block == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("out of memory: ", bytes, " bytes wanted for the model"));
    }
    blocks_.push_back(block);
    return block;
  }

  Backend& backend() const { return backend_; }

 private:
  Backend& backend_;
  std::vector<void*> blocks_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_BACKEND_MEMORY_H_
