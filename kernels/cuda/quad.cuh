// The arithmetic of the kernels that advance memories whose order decides a result's bits. For .cu
// files; see kernels/cuda/README.md.
//
// A warp owns 4 quads of columns, 8 lanes a quad. Lane i of a quad's reads rows i, i + 8, ... of
// the state, in that order, then entries i, i + 8, ... of the window; the 8 sums are added as a
// butterfly. Entries of the token itself come after that. Scores of entries are sums over a whole
// warp. All kernels keep to it, so all give the same bits.
#ifndef EVENFLOW_KERNELS_CUDA_QUAD_CUH_
#define EVENFLOW_KERNELS_CUDA_QUAD_CUH_

#include <cfloat>
#include <cstdint>
#include <type_traits>

#include <cuda_bf16.h>

#include "kernels/cuda/memory_slot.h"

namespace evenflow {

inline constexpr unsigned kWarp = 0xffffffffu;
inline constexpr int kQuadLanes = 8;
inline constexpr int kWarpQuads = 32 / kQuadLanes;
inline constexpr int kWarpColumns = kQuad * kWarpQuads;

// Health of a part of a state, as kernels/backend.h has it but for the square root.
struct HealthPart {
  float square = 0;
  float max_abs = 0;
  int32_t non_finite = 0;

  __device__ void Observe(float s) {
    const float magnitude = fabsf(s);
    if (magnitude <= FLT_MAX) {
      square = fmaf(s, s, square);
      max_abs = fmaxf(max_abs, magnitude);
    } else {
      ++non_finite;
    }
  }

  // Over that many adjacent lanes.
  __device__ void SumLanes(int lanes) {
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
      square += __shfl_xor_sync(kWarp, square, offset);
      max_abs = fmaxf(max_abs, __shfl_xor_sync(kWarp, max_abs, offset));
      non_finite += __shfl_xor_sync(kWarp, non_finite, offset);
    }
  }
};

// The sum over a quad's lanes of each of 4 columns; lanes 2 c and 2 c + 1 of the quad get that of
// column c.
__device__ inline float SumQuad(const float (&sum)[kQuad]) {
  const bool high = (threadIdx.x & 4) != 0;
  float a = high ? sum[2] : sum[0];
  float b = high ? sum[3] : sum[1];
  a += __shfl_xor_sync(kWarp, high ? sum[0] : sum[2], 4);
  b += __shfl_xor_sync(kWarp, high ? sum[1] : sum[3], 4);
  const bool odd = (threadIdx.x & 2) != 0;
  const float own = (odd ? b : a) + __shfl_xor_sync(kWarp, odd ? a : b, 2);
  return own + __shfl_xor_sync(kWarp, own, 1);
}

// The sum over the warp of each of 4 numbers, as WarpSum has it; lanes 8 i to 8 i + 7 get the i-th.
__device__ inline float SumWarpOfFour(const float (&sum)[4]) {
  const bool high = (threadIdx.x & 16) != 0;
  float a = high ? sum[2] : sum[0];
  float b = high ? sum[3] : sum[1];
  a += __shfl_xor_sync(kWarp, high ? sum[0] : sum[2], 16);
  b += __shfl_xor_sync(kWarp, high ? sum[1] : sum[3], 16);
  const bool odd = (threadIdx.x & 8) != 0;
  float own = (odd ? b : a) + __shfl_xor_sync(kWarp, odd ? a : b, 8);
  for (int offset = 4; offset > 0; offset /= 2) {
    own += __shfl_xor_sync(kWarp, own, offset);
  }
  return own;
}

__device__ inline void AddScaled(float scale, float4 values, float (&sum)[kQuad]) {
  sum[0] = fmaf(scale, values.x, sum[0]);
  sum[1] = fmaf(scale, values.y, sum[1]);
  sum[2] = fmaf(scale, values.z, sum[2]);
  sum[3] = fmaf(scale, values.w, sum[3]);
}

// Elements of a state as fp32, and back with what fp32 loses there.
__device__ inline float ToFloat(float s) {
  return s;
}

__device__ inline float ToFloat(__nv_bfloat16 s) {
  return __bfloat162float(s);
}

template <class State>
__device__ inline State FromFloat(float s) {
  if constexpr (sizeof(State) == 2) {
    return __float2bfloat16_rn(s);
  } else {
    return s;
  }
}

// A row of a whole quad, as it lies in memory.
template <class State>
using RawQuad = std::conditional_t<sizeof(State) == 2, uint2, float4>;

__device__ inline float4 ToFloats(float4 raw) {
  return raw;
}

__device__ inline float4 ToFloats(uint2 raw) {
  return make_float4(__uint_as_float(raw.x << 16), __uint_as_float(raw.x & 0xffff0000u),
                     __uint_as_float(raw.y << 16), __uint_as_float(raw.y & 0xffff0000u));
}

__device__ inline void StoreQuad(float4 quad, float* to) {
  *reinterpret_cast<float4*>(to) = quad;
}

__device__ inline void StoreQuad(float4 quad, __nv_bfloat16* to) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(quad.x, quad.y);
  const __nv_bfloat162 high = __floats2bfloat162_rn(quad.z, quad.w);
  *reinterpret_cast<uint2*>(to) = make_uint2(*reinterpret_cast<const unsigned*>(&low),
                                             *reinterpret_cast<const unsigned*>(&high));
}

template <class State>
__device__ inline float Rounded(float s) {
  return ToFloat(FromFloat<State>(s));
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_QUAD_CUH_
