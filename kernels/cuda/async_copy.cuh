// Hopper's asynchronous copies into shared memory and the barriers that tell of their end: PTX ISA,
// sections "mbarrier" and "cp.async.bulk". For .cu files of sm_90 and later.
#ifndef EVENFLOW_KERNELS_CUDA_ASYNC_COPY_CUH_
#define EVENFLOW_KERNELS_CUDA_ASYNC_COPY_CUH_

#include <cstdint>

namespace evenflow {

__device__ inline uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// A barrier in shared memory. A phase ends when `arrivals` threads have arrived and all bytes that
// were expected have come; waiting for the i-th phase is Wait(i & 1).
struct Mbarrier {
  uint64_t word;

  __device__ void Init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(&word)),
                 "r"(arrivals));
  }

  __device__ void Arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(&word)) : "memory");
  }

  __device__ void ArriveAndExpect(uint32_t bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(&word)),
        "r"(bytes)
        : "memory");
  }

  __device__ void Expect(uint32_t bytes) {
    asm volatile(
        "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(&word)),
        "r"(bytes)
        : "memory");
  }

  // Arrives once all CopyWord of this thread so far have ended.
  __device__ void ArriveAfterWords() {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(SharedAddress(&word))
                 : "memory");
  }

  __device__ void Wait(uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "WAIT_%=:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra DONE_%=;\n"
        "bra WAIT_%=;\n"
        "DONE_%=:\n"
        "}" ::"r"(SharedAddress(&word)),
        "r"(parity)
        : "memory");
  }
};

// After Init, before other threads use the barriers.
__device__ inline void FenceMbarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Both addresses and `bytes` are multiples of 16. One thread. For what is read once.
__device__ inline void CopyBulk(void* shared, const void* global, uint32_t bytes, Mbarrier* end) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(SharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(SharedAddress(&end->word))
      : "memory");
}

// 4 bytes.
__device__ inline void CopyWord(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(SharedAddress(shared)), "l"(global)
               : "memory");
}

// Orders this thread's ordinary writes to shared memory before later bulk copies to it.
__device__ inline void FenceBeforeBulk() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A barrier of some of the block's warps; id 0 is __syncthreads'.
__device__ inline void SyncWarps(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_ASYNC_COPY_CUH_
