// The arithmetic of MemoryOutput whose order decides a result's bits, for its own kernel and for
// the decode kernel, to which it may be left. For .cu files.
//
// A norm's squares are added up as butterflies: first those of 16 adjacent channels, then these
// sums, 32 of them at a time; or, where the product that reads y finds the factor, 4 of these as
// they come.
#ifndef EVENFLOW_KERNELS_CUDA_MEMORY_OUTPUT_CUH_
#define EVENFLOW_KERNELS_CUDA_MEMORY_OUTPUT_CUH_

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/memory_slot.h"
#include "kernels/math/activations.h"
#include "kernels/math/head_norm.h"

namespace evenflow {

// Not inline: its code would be a large part of a kernel's.
__device__ __noinline__ inline float ActivateApart(Activation activation, float x) {
  return Activate(activation, x);
}

// A channel's part of the norm's squares.
__device__ inline float SquareOf(OutputNorm norm, float value, float gated) {
  const float x = norm == OutputNorm::kAfterGate ? value * gated : value;
  return __fmul_rn(x, x);
}

// Over 16 adjacent channels, of which `lanes` adjacent lanes have each.
template <int kLanes>
__device__ inline float SumTile(float square) {
#pragma unroll
  for (int offset = kTile / 2; offset > 0; offset /= 2) {
    square += __shfl_xor_sync(0xffffffffu, square, offset * kLanes);
  }
  return square;
}

// Over the sums of `tiles` tiles. A warp.
__device__ inline float SumTiles(const float* sums, int tiles) {
  float sum = 0;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x % 32); i < tiles; i += 32) {
    sum += sums[i];
  }
  return WarpSum(sum);
}

// What is left of them to a product; `count` of the part's tiles exist.
inline constexpr int kPartTiles = 4;

__device__ inline float SumPart(const float* sums, int count) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPartTiles; ++i) {
    sum += i < count ? sums[i] : 0.0f;
  }
  return sum;
}

// A channel of y. `centred`: what was read, less the mean of the norms that take it off.
__device__ inline float Finished(float centred, float factor, float weight, float added,
                                 float gated) {
  return gated * (centred * factor * weight + added);
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_MEMORY_OUTPUT_CUH_
