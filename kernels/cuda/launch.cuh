// Launching kernels, and what their threads do together. For .cu files.
//
// Kernels are launched so that the device may set one up while the one before it still runs
// (programmatic dependent launch). So each begins with AwaitInputs(), before which it may only read
// what no kernel of a step writes: weights.
#ifndef EVENFLOW_KERNELS_CUDA_LAUNCH_CUH_
#define EVENFLOW_KERNELS_CUDA_LAUNCH_CUH_

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/step.h"

namespace evenflow {

struct LaunchShape {
  dim3 blocks;
  int threads = 0;
  size_t shared_bytes = 0;
  unsigned cluster = 1;  // adjacent blocks (in x) that run at the same time
};

// Enqueues kernel(args...). An error stays with the runtime until the backend asks for it.
template <class... Parameters, class... Args>
void Launch(void (*kernel)(Parameters...), const LaunchShape& shape, cudaStream_t stream,
            const Args&... args) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {shape.cluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.blocks;
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = shape.cluster > 1 ? 2 : 1;
  cudaLaunchKernelEx(&config, kernel, Parameters(args)...);
}

inline int Multiprocessors() {
  int count = 0;
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0);
  return count;
}

inline unsigned CeilDiv(int64_t a, int64_t b) {
  return static_cast<unsigned>((a + b - 1) / b);
}

// Lets the next kernel be set up.
__device__ inline void LetNextBegin() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

// Waits until all that was enqueued before is done and seen.
__device__ inline void AwaitKernelsBefore() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

__device__ inline void AwaitInputs() {
  LetNextBegin();
  AwaitKernelsBefore();
}

// Element `index` of an array of `dtype`.
__device__ inline float Load(const void* data, DType dtype, int64_t index) {
  return dtype == DType::kF32 ? static_cast<const float*>(data)[index]
                              : __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]);
}

__device__ inline void Store(void* data, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF32) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16(value);
  }
}

__device__ inline float Load(const Matrix& matrix, int64_t row, int64_t column) {
  return Load(matrix.data, matrix.dtype, row * matrix.stride + column);
}

__device__ inline void Store(const Matrix& matrix, int64_t row, int64_t column, float value) {
  Store(matrix.data, matrix.dtype, row * matrix.stride + column, value);
}

// Calls run.template operator()<T>() with the type of `dtype`'s elements: where loads have no
// branch, the compiler lets several be on their way.
template <class Run>
void WithType(DType dtype, const Run& run) {
  if (dtype == DType::kF32) {
    run.template operator()<float>();
  } else {
    run.template operator()<__nv_bfloat16>();
  }
}

template <class T>
__device__ inline float LoadAs(const Matrix& matrix, int64_t row, int64_t column) {
  return static_cast<float>(static_cast<const T*>(matrix.data)[row * matrix.stride + column]);
}

__device__ inline float WarpSum(float value) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

// The sum over all threads of the block, at most 1024; every thread gets it.
__device__ inline float BlockSum(float value) {
  __shared__ float partial[32];
  const int warps = static_cast<int>(blockDim.x + 31) / 32;
  value = WarpSum(value);
  __syncthreads();  // the sum before this one has been read
  if (threadIdx.x % 32 == 0) {
    partial[threadIdx.x / 32] = value;
  }
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < warps; ++warp) {
    sum += partial[warp];
  }
  return sum;
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_LAUNCH_CUH_
