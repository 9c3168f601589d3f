#include "kernels/cuda/launch.cuh"
#include "kernels/math/head_norm.h"

namespace evenflow {
namespace {

constexpr int kThreads = 256;

// A block a row. The second and third look at a row find it in the cache.
__global__ void NormKernel(NormArgs args, const int32_t* logit_tokens) {
  AwaitInputs();
  const int64_t row = blockIdx.x;
  const int64_t token = logit_tokens == nullptr ? row : logit_tokens[row];
  const bool maps = args.kind == NormKind::kDyT || args.kind == NormKind::kDerf;
  float mean = 0;
  if (args.kind == NormKind::kLayer) {
    for (int i = threadIdx.x; i < args.dim; i += kThreads) {
      mean += Load(args.x, token, i);
    }
    mean = BlockSum(mean) / static_cast<float>(args.dim);
  }
  float factor = 1;
  if (!maps) {
    float squares = 0;
#pragma unroll 8
    for (int i = threadIdx.x; i < args.dim; i += kThreads) {
      const float x = Load(args.x, token, i) - mean;
      squares += x * x;
    }
    factor = InverseRms(BlockSum(squares), args.dim, args.eps);
  }
#pragma unroll 8
  for (int i = threadIdx.x; i < args.dim; i += kThreads) {
    const float x = Load(args.x, token, i);
    const float normed = maps ? MapChannel(args, x) : (x - mean) * factor;
    const float weight = args.weight == nullptr ? 1.0f : args.weight[i];
    const float bias = args.bias == nullptr ? 0.0f : args.bias[i];
    Store(args.y, row, i, normed * weight + bias);
  }
}

}  // namespace

void CudaNorm(const NormArgs& args, const CudaStep& step) {
  const bool logits = args.tokens == TokenSet::kLogits;
  const int rows = logits ? step.logit_count : step.token_count;
  if (rows > 0) {
    Launch(NormKernel, {dim3(static_cast<unsigned>(rows)), kThreads}, step.stream, args,
           logits ? step.logit_tokens : nullptr);
  }
}

}  // namespace evenflow
