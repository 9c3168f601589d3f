// What MemoryInputs makes of a token's projections, for its own kernel and for the decode kernel,
// to which it may be left: both give the same bits. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_MEMORY_INPUTS_CUH_
#define EVENFLOW_KERNELS_CUDA_MEMORY_INPUTS_CUH_

#include "kernels/cuda/launch.cuh"
#include "kernels/math/decay_gate.h"
#include "kernels/math/feature_map.h"
#include "kernels/math/head_norm.h"
#include "kernels/math/rotary.h"

namespace evenflow {

// Of the heads' rotary embedding, device [key_dim / 2]; nullptr: there is none. On the host.
inline const double* InputFrequencies(const MemoryInputsArgs& args, const CudaStep& step) {
  return args.rotary_base > 0 ? step.rotary->Frequencies(args.rotary_base, args.shape.key_dim)
                              : nullptr;
}

// Cosine (x) and sine (y) of a rotation.
__device__ inline float2 RotationAt(int64_t position, double frequency) {
  float2 rotation;
  sincosf(RotaryAngle(position, frequency), &rotation.y, &rotation.x);
  return rotation;
}

// Whether a map takes each channel by itself.
__host__ __device__ inline bool IsElementwise(FeatureMap map) {
  return map == FeatureMap::kIdentity || map == FeatureMap::kSilu || map == FeatureMap::kRelu ||
         map == FeatureMap::kElu1;
}

// REQUIRES: IsElementwise. Apart, as the rest of this: its code would be many times that of a
// kernel that may have to do it.
__device__ __noinline__ inline float MapChannel(FeatureMap map, float x) {
  switch (map) {
    case FeatureMap::kSilu:
      return Silu(x);
    case FeatureMap::kRelu:
      return Relu(x);
    case FeatureMap::kElu1:
      return Elu1(x);
    default:
      return x;
  }
}

// A norm's sum, with one more channel.
__device__ inline float AddChannel(HeadNorm norm, float sum, float y) {
  return SumsSquares(norm) ? fmaf(y, y, sum) : sum + y;
}

// A value's factor, from the projection x to its state's log decay, where there is one.
__device__ inline float ValueScale(const DecayGateArgs& decay, int head, float x) {
  if (decay.gate != DecayGate::kTimeStep) {
    return 1;
  }
  const float bias = decay.bias == nullptr ? 0.0f : decay.bias[head];
  return TimeStep(x + bias, decay.low, decay.high);
}

// beta, from its projection x.
__device__ inline float WriteStrength(const MemoryInputsArgs& args, float x) {
  const float write = args.beta_column < 0 ? 1.0f : Sigmoid(x);
  return args.beta_low + (args.beta_scale - args.beta_low) * write;
}

// Asks for what will be read soon.
__device__ inline void PrefetchWeight(const float* weight) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(weight));
}

// Channels lane, lane + 32, ... of a head of queries or keys, which a warp has in registers.
template <int kCount>
struct LaneChannels {
  float x[kCount];

  // As they are projected, from column `column` on.
  __device__ void Load(const Matrix& projected, int64_t token, int column) {
    if (projected.dtype == DType::kF32) {  // no branch between the loads
      LoadAll<float>(projected, token, column);
    } else {
      LoadAll<__nv_bfloat16>(projected, token, column);
    }
  }

  // Maps, normalises and scales them.
  __device__ void Prepare(FeatureMap map, HeadNorm norm, float scale) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      x[j] = map == FeatureMap::kIdentity ? x[j] : MapChannel(map, x[j]);
      sum = AddChannel(norm, sum, x[j]);
    }
    sum = norm == HeadNorm::kNone ? 0 : WarpSum(sum);
    const float factor = HeadNormFactor(norm, sum) * scale;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      x[j] *= factor;
    }
  }

  // By the cosine and sine of each pair, [16 kCount].
  __device__ void Turn(const float2* rotation) {
#pragma unroll
    for (int j = 0; j < kCount / 2; ++j) {
      const float2 by = rotation[Channel(j)];
      const RotaryPair turned = Rotate({x[j], x[j + kCount / 2]}, by.x, by.y);
      x[j] = turned.low;
      x[j + kCount / 2] = turned.high;
    }
  }

  // Calls visit(channel, x).
  template <class Visit>
  __device__ void ForEach(const Visit& visit) const {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      visit(Channel(j), x[j]);
    }
  }

 private:
  __device__ static int Channel(int j) {
    return static_cast<int>(threadIdx.x % 32) + 32 * j;
  }

  template <class T>
  __device__ void LoadAll(const Matrix& projected, int64_t token, int column) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      x[j] = LoadAs<T>(projected, token, column + Channel(j));
    }
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_MEMORY_INPUTS_CUH_
