// Copies of slots to and from page-locked host memory, beside the steps: a stream for each
// direction, as the device copies both ways at once. Owned by the CUDA backend; engine thread.
#ifndef EVENFLOW_KERNELS_CUDA_SLOT_COPIES_H_
#define EVENFLOW_KERNELS_CUDA_SLOT_COPIES_H_

#include <cstddef>
#include <map>
#include <vector>

#include <cuda_runtime.h>

#include "kernels/backend.h"

namespace evenflow {

class CudaSlotCopies {
 public:
  CudaSlotCopies() = default;
  CudaSlotCopies(const CudaSlotCopies&) = delete;
  CudaSlotCopies& operator=(const CudaSlotCopies&) = delete;
  ~CudaSlotCopies();

  // `steps` is the stream after whose work, as of their calls, copies begin.
  cudaError_t Create(cudaStream_t steps);
  cudaError_t Save(const std::byte* slot, void* to, size_t bytes, SlotCopy* copy);
  cudaError_t Load(std::byte* slot, const void* from, size_t bytes, SlotCopy* copy);
  // cudaSuccess: it is done, and forgotten; cudaErrorNotReady: it is not.
  cudaError_t Ask(SlotCopy copy);
  // Zeros, in order with Save.
  cudaError_t Wipe(void* data, size_t bytes);
  cudaError_t Wait();  // for all of it

 private:
  cudaError_t Copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, SlotCopy* copy);

  cudaStream_t steps_ = nullptr, out_ = nullptr, in_ = nullptr;
  cudaEvent_t launched_ = nullptr;  // what the steps' stream had when a copy was asked for
  void* zeros_ = nullptr;           // on the device
  SlotCopy last_ = 0;
  std::map<SlotCopy, cudaEvent_t> under_way_;
  std::vector<cudaEvent_t> spare_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_SLOT_COPIES_H_
