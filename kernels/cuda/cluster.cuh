// What the blocks of a cluster do together: PTX ISA, section "barrier.cluster". For .cu
// files; nothing before sm_90.
#ifndef EVENFLOW_KERNELS_CUDA_CLUSTER_CUH_
#define EVENFLOW_KERNELS_CUDA_CLUSTER_CUH_

namespace evenflow {

// Whole warps say that they are here, and wait until all of the cluster's are.
__device__ inline void ArriveAtCluster() {
#if __CUDA_ARCH__ >= 900
  __syncwarp();
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}

__device__ inline void AwaitCluster() {
#if __CUDA_ARCH__ >= 900
  __syncwarp();
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_CLUSTER_CUH_
