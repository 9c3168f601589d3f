// What the blocks of a cluster do together: PTX ISA, sections "barrier.cluster" and "mapa". For .cu
// files; nothing before sm_90.
#ifndef EVENFLOW_KERNELS_CUDA_CLUSTER_CUH_
#define EVENFLOW_KERNELS_CUDA_CLUSTER_CUH_

#include "kernels/cuda/async_copy.cuh"

namespace evenflow {

// Whole warps say that they are here, and wait until all of the cluster's are. kSends: what they
// sent before is seen by those that have waited.
template <bool kSends = false>
__device__ inline void ArriveAtCluster() {
#if __CUDA_ARCH__ >= 900
  __syncwarp();
  if constexpr (kSends) {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  } else {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  }
#endif
}

__device__ inline void AwaitCluster() {
#if __CUDA_ARCH__ >= 900
  __syncwarp();
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Writes to the same place in the shared memory of the cluster's block `rank`.
__device__ inline void SendFour(const float (&values)[4], float4* shared, int rank) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .b32 to;\n"
      "mapa.shared::cluster.u32 to, %0, %1;\n"
      "st.shared::cluster.v4.f32 [to], {%2, %3, %4, %5};\n"
      "}" ::"r"(SharedAddress(shared)),
      "r"(rank), "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3])
      : "memory");
#endif
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_CLUSTER_CUH_
