// Barriers in shared memory that tell when asynchronous copies have ended, or threads are done: PTX
// ISA, sections "mbarrier" and "cp.async.bulk". For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_COPY_BARRIER_CUH_
#define EVENFLOW_KERNELS_CUDA_COPY_BARRIER_CUH_

#include <cstddef>
#include <cstdint>

namespace evenflow {

__device__ inline uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Until the barrier in shared memory has ended the phase of that parity.
__device__ inline void AwaitPhase(const uint64_t& barrier, int parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
#if __CUDA_ARCH__ >= 900
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
#else
        "mbarrier.test_wait.parity.shared.b64 done, [%1], %2;\n"
#endif
        "selp.u32 %0, 1, 0, done;\n"
        "}"
        : "=r"(done)
        : "r"(SharedAddress(&barrier)), "r"(parity)
        : "memory");
  }
}

// In shared memory: so many threads arrive, which ends a phase. The i-th phase is awaited with
// parity i & 1.
class ArrivalBarrier {
 public:
  // One thread; a CopyBarrier::FenceInit and a barrier of the threads that use it must follow.
  __device__ void Init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(&word_)),
                 "r"(arrivals));
  }

  __device__ void Arrive() {
    asm volatile(
        "{\n"
        ".reg .b64 state;\n"
        "mbarrier.arrive.shared::cta.b64 state, [%0];\n"
        "}" ::"r"(SharedAddress(&word_))
        : "memory");
  }

  // Once all that this thread has begun to copy (CopyPiece, CopyFour) is there.
  __device__ void ArriveAfterCopies() {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(SharedAddress(&word_))
                 : "memory");
  }

  __device__ void Wait(int parity) const { AwaitPhase(word_, parity); }

 private:
  uint64_t word_;
};

// In shared memory. A warp copies, any number of times, then says that this was all; this ends a
// phase, once all has come. The i-th phase is awaited with parity i & 1.
class CopyBarrier {
 public:
  // One thread; a FenceInit and a barrier of the threads that use it must follow.
  __device__ void Init() {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(&word_)),
                 "r"(kArrivals));
  }

  // Of the thread that has called Init, after it.
  __device__ static void FenceInit() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
  }

  // The whole warp. Both addresses and `bytes` are multiples of 16. once: none will read it soon
  // again, so the second cache gives it up before anything else.
  __device__ void Copy(void* shared, const void* global, int bytes, bool once = false) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
      asm volatile(
          "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(&word_)),
          "r"(bytes)
          : "memory");
      if (once) {
        asm volatile(
            "{\n"
            ".reg .b64 policy;\n"
            "createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n"
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
            "[%0], [%1], %2, [%3], policy;\n"
            "}" ::"r"(SharedAddress(shared)),
            "l"(global), "r"(bytes), "r"(SharedAddress(&word_))
            : "memory");
      } else {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
            "[%3];" ::"r"(SharedAddress(shared)),
            "l"(global), "r"(bytes), "r"(SharedAddress(&word_))
            : "memory");
      }
    }
#else
    for (int offset = 16 * lane; offset < bytes; offset += 16 * 32) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(shared) +
                                                                     static_cast<uint32_t>(offset)),
                   "l"(static_cast<const char*>(global) + offset)
                   : "memory");
    }
#endif
  }

  // The whole warp, after its copies.
  __device__ void ThatIsAll() {
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 == 0) {
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(&word_))
                   : "memory");
    }
#else
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(SharedAddress(&word_))
                 : "memory");
#endif
  }

#if __CUDA_ARCH__ >= 900
  // In place of copies and their end: other threads will Send so many bytes. One thread.
  __device__ void Expect(int bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(&word_)),
        "r"(bytes)
        : "memory");
  }

  // A box of what a map (cuTensorMapEncodeTiled, 4 dimensions) describes, from (column, row, 0,
  // group) on; its bytes are Expected. One thread.
  __device__ void CopyTile(void* shared, const void* map, int column, int row, int group) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%3, %4, %5, %6}], [%2];" ::"r"(SharedAddress(shared)),
        "l"(map), "r"(SharedAddress(&word_)), "r"(column), "r"(row), "r"(0), "r"(group)
        : "memory");
  }

  // From shared memory to a place in that of the cluster's block `rank`, whose barrier expects it;
  // all of it on 16 bytes, written before a fence of proxies. One thread.
  __device__ void SendBytes(const void* from, void* to, int bytes, int rank) const {
    asm volatile(
        "{\n"
        ".reg .b32 to, barrier;\n"
        "mapa.shared::cluster.u32 to, %0, %4;\n"
        "mapa.shared::cluster.u32 barrier, %1, %4;\n"
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [to], [%2], %3, "
        "[barrier];\n"
        "}" ::"r"(SharedAddress(to)),
        "r"(SharedAddress(&word_)), "r"(SharedAddress(from)), "r"(bytes), "r"(rank)
        : "memory");
  }
#endif

  __device__ void Wait(int parity) const {
    AwaitPhase(word_, parity);
  }

 private:
#if __CUDA_ARCH__ >= 900
  static constexpr int kArrivals = 1;
#else
  static constexpr int kArrivals = 32;
#endif

  uint64_t word_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_COPY_BARRIER_CUH_
