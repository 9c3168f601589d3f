// Copies that run while a block computes, for kernels that read prompts (kernels/cuda/prefill.cuh).
// cp.async: PTX ISA, of sm_80 and later. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_STREAM_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_STREAM_CUH_

#include <cstddef>
#include <cstdint>

namespace evenflow {

// 16 bytes, of which the first `bytes` are copied and the rest is zeros; both on 16 bytes.
__device__ inline void CopyPiece(void* shared, const void* global, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(bytes)
               : "memory");
}

// 4 floats, of which the first `count` are copied and the rest are zeros. `wide`: both lie on 16
// bytes and count is 0 or at least 4.
__device__ inline void CopyFour(float* shared, const float* global, int count, bool wide) {
  if (wide) {
    CopyPiece(shared, global, count > 0 ? 16 : 0);
    return;
  }
  for (int i = 0; i < 4; ++i) {
    const bool there = i < count;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(
                     static_cast<uint32_t>(__cvta_generic_to_shared(shared + i))),
                 "l"(there ? global + i : global), "r"(there ? 4 : 0)
                 : "memory");
  }
}

// Ends this thread's group of copies.
__device__ inline void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until at most kGroups of this thread's newest groups of copies are under way.
template <int kGroups>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_STREAM_CUH_
