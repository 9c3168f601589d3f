#include "kernels/cuda/launch.cuh"
#include "kernels/math/activations.h"
#include "kernels/math/head_norm.h"

namespace evenflow {
namespace {

// A block for a token's head, or whatever is normalised together.
__global__ void MemoryOutputKernel(MemoryOutputArgs args) {
  AwaitInputs();
  const int64_t token = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y);
  const int dim = args.value_dim;
  const int threads = static_cast<int>(blockDim.x);
  const int64_t column = int64_t{head} * dim;
  const float* const o = args.o + (token * args.heads + head) * (dim + (args.normalizer ? 1 : 0));
  const float scale = args.normalizer ? NormalizerFactor(o[dim]) : 1.0f;
  const auto read = [&](int i) {
    const float value = o[i] * scale;
    return args.skip.data == nullptr
               ? value
               : value + args.skip_weight[column + i] * Load(args.skip, token, column + i);
  };
  const auto gate = [&](int i) {
    return args.gate.data == nullptr
               ? 1.0f
               : Activate(args.gate_activation, Load(args.gate, token, column + i));
  };
  float factor = 1;
  if (args.norm != OutputNorm::kNone) {
    float squares = 0;
    for (int i = threadIdx.x; i < dim; i += threads) {
      const float value = args.norm == OutputNorm::kAfterGate ? read(i) * gate(i) : read(i);
      squares += value * value;
    }
    factor = InverseRms(BlockSum(squares), dim, args.eps);
  }
  const float* const weight =
      args.weight == nullptr || !args.weight_per_head ? args.weight : args.weight + column;
  for (int i = threadIdx.x; i < dim; i += threads) {
    const float w = weight == nullptr ? 1.0f : weight[i];
    Store(args.y, token, column + i, gate(i) * (read(i) * factor * w));
  }
}

}  // namespace

void CudaMemoryOutput(const MemoryOutputArgs& args, const CudaStep& step) {
  const int threads = args.value_dim <= 128 ? 64 : args.value_dim <= 1024 ? 128 : 512;
  const dim3 blocks(static_cast<unsigned>(step.token_count), static_cast<unsigned>(args.heads));
  Launch(MemoryOutputKernel, {blocks, threads}, step.stream, args);
}

}  // namespace evenflow
