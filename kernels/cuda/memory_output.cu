#include "kernels/cuda/launch.cuh"
#include "kernels/math/activations.h"
#include "kernels/math/head_norm.h"

namespace evenflow {
namespace {

constexpr int kKept = 4;  // channels that a thread keeps in registers

// A block for a token's head, or whatever is normalised together. T: of skip and gate.
template <class T>
__global__ void MemoryOutputKernel(MemoryOutputArgs args) {
  const int64_t token = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y);
  const int dim = args.value_dim;
  const auto threads = static_cast<int>(blockDim.x);
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t column = int64_t{head} * dim;
  const float* const weight =
      args.weight == nullptr || !args.weight_per_head ? args.weight : args.weight + column;
  float weights[kKept];
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = thread + j * threads;
    weights[j] = weight != nullptr && i < dim ? weight[i] : 1.0f;
  }
  AwaitInputs();
  const float* const o = args.o + (token * args.heads + head) * (dim + (args.normalizer ? 1 : 0));
  const float scale = args.normalizer ? NormalizerFactor(o[dim], args.normalizer_floor) : 1.0f;
  const auto read = [&](int i) {
    const float value = o[i] * scale;
    return args.skip.data == nullptr || args.norm == OutputNorm::kGroup
               ? value
               : value + args.skip_weight[column + i] * LoadAs<T>(args.skip, token, column + i);
  };
  const auto gate = [&](int i) {
    return args.gate.data == nullptr ? 1.0f : LoadAs<T>(args.gate, token, column + i);
  };
  float values[kKept], gates[kKept];
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = thread + j * threads;
    values[j] = i < dim ? read(i) : 0.0f;
    gates[j] = i < dim ? gate(i) : 0.0f;
  }
  const auto for_channels = [&](const auto& visit) {
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      if (thread + j * threads < dim) {
        visit(thread + j * threads, values[j], Activate(args.gate_activation, gates[j]),
              weights[j]);
      }
    }
    for (int i = thread + kKept * threads; i < dim; i += threads) {
      visit(i, read(i), Activate(args.gate_activation, gate(i)),
            weight == nullptr ? 1.0f : weight[i]);
    }
  };
  float mean = 0;
  if (args.norm == OutputNorm::kGroup) {
    for_channels([&](int, float value, float, float) { mean += value; });
    mean = BlockSum(mean) / static_cast<float>(dim);
  }
  float factor = 1;
  if (args.norm != OutputNorm::kNone) {
    float squares = 0;
    for_channels([&](int, float value, float gated, float) {
      const float normed = args.norm == OutputNorm::kAfterGate ? value * gated : value - mean;
      squares += normed * normed;
    });
    factor = InverseRms(BlockSum(squares), dim, args.eps);
  }
  for_channels([&](int i, float value, float gated, float w) {
    float added = 0;
    if (args.norm == OutputNorm::kGroup) {
      added = (args.bias == nullptr ? 0.0f : args.bias[column + i]) +
              (args.skip.data == nullptr ? 0.0f : LoadAs<T>(args.skip, token, column + i));
    }
    Store(args.y, token, column + i, gated * ((value - mean) * factor * w + added));
  });
}

}  // namespace

void CudaMemoryOutput(const MemoryOutputArgs& args, const CudaStep& step) {
  const int threads = args.value_dim <= 128 ? 64 : args.value_dim <= 1024 ? 128 : 512;
  const dim3 blocks(static_cast<unsigned>(step.token_count), static_cast<unsigned>(args.heads));
  const DType dtype = args.gate.data == nullptr ? args.skip.dtype : args.gate.dtype;
  WithType(dtype, [&]<class T>() {
    Launch(MemoryOutputKernel<T>, {blocks, threads}, step.stream, args);
  });
}

}  // namespace evenflow
