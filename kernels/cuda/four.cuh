// Four adjacent channels at once, for kernels that would otherwise be bound by the instructions of
// single ones. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_FOUR_CUH_
#define EVENFLOW_KERNELS_CUDA_FOUR_CUH_

#include <cstdint>

#include <cuda_bf16.h>

#include "kernels/tensor.h"

namespace evenflow {

// Whether channels that are multiples of 4 can be read so. On the host.
inline bool InFours(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

inline bool InFours(const Matrix& matrix) {
  return InFours(matrix.data) && matrix.stride % 4 == 0;
}

// 4 channels.
struct Four {
  float x[4];
};

template <class T>
__device__ inline Four LoadFour(const T* data) {
  Four four;
  if constexpr (sizeof(T) == 4) {
    *reinterpret_cast<float4*>(four.x) = *reinterpret_cast<const float4*>(data);
  } else {
    const uint2 pairs = *reinterpret_cast<const uint2*>(data);
    four.x[0] = __uint_as_float(pairs.x << 16);
    four.x[1] = __uint_as_float(pairs.x & 0xffff0000u);
    four.x[2] = __uint_as_float(pairs.y << 16);
    four.x[3] = __uint_as_float(pairs.y & 0xffff0000u);
  }
  return four;
}

__device__ inline Four LoadFour(const Matrix& y, int64_t at) {
  return y.dtype == DType::kF32 ? LoadFour(static_cast<const float*>(y.data) + at)
                                : LoadFour(static_cast<const __nv_bfloat16*>(y.data) + at);
}

__device__ inline void StoreFour(const Matrix& y, int64_t at, const Four& four) {
  if (y.dtype == DType::kF32) {
    *reinterpret_cast<float4*>(static_cast<float*>(y.data) + at) =
        make_float4(four.x[0], four.x[1], four.x[2], four.x[3]);
  } else {
    const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(four.x[0], four.x[1]),
                                     __floats2bfloat162_rn(four.x[2], four.x[3])};
    *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(y.data) + at) =
        *reinterpret_cast<const uint2*>(pairs);
  }
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_FOUR_CUH_
