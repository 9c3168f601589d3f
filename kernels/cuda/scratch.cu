#include <algorithm>

#include "kernels/cuda/step.h"

namespace evenflow {

CudaScratch::~CudaScratch() {
  for (void* block : blocks_) {
    cudaFree(block);
  }
}

void* CudaScratch::Take(size_t bytes) {
  if (bytes > size_) {
    const size_t size = std::max(bytes, 2 * size_);
    void* block = nullptr;
    if (cudaMalloc(&block, size) != cudaSuccess) {
      return nullptr;
    }
    blocks_.push_back(block);
    size_ = size;
  }
  return blocks_.empty() ? nullptr : blocks_.back();
}

}  // namespace evenflow
