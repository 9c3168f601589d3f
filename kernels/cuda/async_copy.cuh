// Asynchronous copies into shared memory, and out of it: by a warp with a barrier that tells of
// their end (copy_barrier.cuh), in bulk on sm_90 and later, and by threads that wait for their own.
// PTX ISA, sections "cp.async.bulk" and "cp.async".
#ifndef EVENFLOW_KERNELS_CUDA_ASYNC_COPY_CUH_
#define EVENFLOW_KERNELS_CUDA_ASYNC_COPY_CUH_

#include "kernels/cuda/copy_barrier.cuh"

namespace evenflow {

// From shared memory, which the warp has written, to global memory: the whole warp, all of it on 16
// bytes. Shared memory stays as it is until AwaitCopiesOut.
__device__ inline void CopyOut(void* global, const void* shared, int bytes) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (lane == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
                 "r"(SharedAddress(shared)), "r"(bytes)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  }
#else
  __syncwarp();
  for (int offset = 16 * lane; offset < bytes; offset += 16 * 32) {
    *reinterpret_cast<float4*>(static_cast<char*>(global) + offset) =
        *reinterpret_cast<const float4*>(static_cast<const char*>(shared) + offset);
  }
#endif
}

// Of those before. The whole warp.
__device__ inline void AwaitCopiesOut() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
  __syncwarp();
}

// 16 bytes, of which the first `bytes` are copied and the rest is zeros; both on 16 bytes. kKept:
// other blocks of the multiprocessor will read them, too.
template <bool kKept = false>
__device__ inline void CopyPiece(void* shared, const void* global, int bytes = 16) {
  if constexpr (kKept) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
                 "l"(global), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
                 "l"(global), "r"(bytes)
                 : "memory");
  }
}

// A float, or zero where it is not there; `global` is a place of memory in any case.
__device__ inline void CopyFloat(float* shared, const float* global, bool there = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(SharedAddress(shared)),
               "l"(global), "r"(there ? 4 : 0)
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
    CopyFloat(shared + i, i < count ? global + i : global, i < count);
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

// Until none of this thread's is.
__device__ inline void WaitForAllCopies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_ASYNC_COPY_CUH_
