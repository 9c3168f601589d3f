#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/level_weights.h"
#include "kernels/math/activations.h"

namespace evenflow {
namespace {

// W x + b at output i, W [outputs, dim].
__device__ float Project(const float* w, const float* b, int dim, const float* x, int i) {
  float sum = b[i];
  for (int j = 0; j < dim; ++j) {
    sum = fmaf(w[i * dim + j], x[j], sum);
  }
  return sum;
}

// A warp for a token's head.
template <class T>
__global__ void LevelWeightsKernel(const __grid_constant__ MemoryInputsArgs args) {
  extern __shared__ float shared[];
  AwaitInputs();
  const LevelWeightsArgs& weights = args.level_weights;
  const int64_t token = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y);
  const int levels = args.shape.banks;
  const int lane = static_cast<int>(threadIdx.x);
  float* const x = shared;
  float* const hidden = shared + levels;
  float* const out = weights.out + (token * args.shape.heads + head) * levels;
  for (int i = lane; i < levels; i += 32) {
    x[i] = LoadAs<T>(args.projected, token, weights.column + int64_t{head} * levels + i);
  }
  __syncwarp();
  if (weights.w1 == nullptr) {
    for (int i = lane; i < levels; i += 32) {
      out[i] = Softplus(weights.scale[head * levels + i] * x[i]);
    }
    return;
  }
  for (int i = lane; i < weights.hidden; i += 32) {
    hidden[i] = Gelu(Project(weights.w1, weights.b1, levels, x, i));
  }
  __syncwarp();
  for (int i = lane; i < levels; i += 32) {
    out[i] = Softplus(Project(weights.w2, weights.b2, weights.hidden, hidden, i));
  }
}

}  // namespace

void CudaLevelWeights(const MemoryInputsArgs& args, const CudaStep& step) {
  const auto floats = static_cast<size_t>(args.shape.banks + args.level_weights.hidden);
  const dim3 blocks(static_cast<unsigned>(step.token_count),
                    static_cast<unsigned>(args.shape.heads));
  WithType(args.projected.dtype, [&]<class T>() {
    Launch(LevelWeightsKernel<T>, {blocks, 32, floats * sizeof(float)}, step.stream, args);
  });
}

}  // namespace evenflow
