#include "kernels/cuda/four.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/math/head_norm.h"

namespace evenflow {
namespace {

constexpr int kThreads = 256;
constexpr int kKept = 16;  // channels that a thread keeps in registers

// A block a row. Rows longer than what is kept are read again from the cache.
template <class T>
__global__ void __launch_bounds__(kThreads) NormKernel(NormArgs args, const int32_t* logit_tokens) {
  const int64_t row = blockIdx.x;
  const auto thread = static_cast<int>(threadIdx.x);
  float kept[kKept], weights[kKept];
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = thread + j * kThreads;
    weights[j] = args.weight != nullptr && i < args.dim ? args.weight[i] : 1.0f;
  }
  AwaitInputs();
  const int64_t token = logit_tokens == nullptr ? row : logit_tokens[row];
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = thread + j * kThreads;
    kept[j] = i < args.dim ? LoadAs<T>(args.x, token, i) : 0.0f;
  }
  const auto for_channels = [&](const auto& visit) {
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      if (thread + j * kThreads < args.dim) {
        visit(thread + j * kThreads, kept[j], weights[j]);
      }
    }
    for (int i = thread + kKept * kThreads; i < args.dim; i += kThreads) {
      visit(i, LoadAs<T>(args.x, token, i), args.weight == nullptr ? 1.0f : args.weight[i]);
    }
  };
  const bool maps = args.kind == NormKind::kDyT || args.kind == NormKind::kDerf;
  float mean = 0;
  if (args.kind == NormKind::kLayer) {
    for_channels([&](int, float x, float) { mean += x; });
    mean = BlockSum(mean) / static_cast<float>(args.dim);
  }
  float factor = 1;
  if (!maps) {
    float squares = 0;
    for_channels([&](int, float x, float) { squares += (x - mean) * (x - mean); });
    factor = InverseRms(BlockSum(squares), args.dim, args.eps);
  }
  for_channels([&](int i, float x, float weight) {
    const float normed = maps ? MapChannel(args, x) : (x - mean) * factor;
    const float bias = args.bias == nullptr ? 0.0f : args.bias[i];
    Store(args.y, row, i, normed * weight + bias);
  });
}

constexpr int kMaxFours = 4;  // that a thread keeps

// RMSNorm, channels in fours, a block a row: see InWholeFours.
template <class T>
__global__ void __launch_bounds__(kThreads) RmsNormKernel(NormArgs args) {
  const int64_t row = blockIdx.x;
  Four values[kMaxFours], weights[kMaxFours];
  const auto for_fours = [&](const auto& visit) {
#pragma unroll
    for (int j = 0; j < kMaxFours; ++j) {
      const int i = 4 * static_cast<int>(threadIdx.x + j * blockDim.x);
      if (i < args.dim) {
        visit(j, i);
      }
    }
  };
  for_fours([&](int j, int i) {
    weights[j] = args.weight == nullptr ? Four{{1, 1, 1, 1}} : LoadFour(args.weight + i);
  });
  AwaitInputs();
  const T* const x = static_cast<const T*>(args.x.data) + row * args.x.stride;
  for_fours([&](int j, int i) { values[j] = LoadFour(x + i); });
  float squares = 0;
  for_fours([&](int j, int) {
    for (const float value : values[j].x) {
      squares += value * value;
    }
  });
  const float factor = InverseRms(BlockSum(squares), args.dim, args.eps);
  for_fours([&](int j, int i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      values[j].x[e] *= factor * weights[j].x[e];
    }
    StoreFour(args.y, row * args.y.stride + i, values[j]);
  });
}

// As few threads as can keep a row, in whole warps.
int RmsNormThreads(int dim) {
  return 32 * static_cast<int>(CeilDiv(dim, 4 * kMaxFours * 32));
}

bool InWholeFours(const NormArgs& args) {
  return args.tokens == TokenSet::kAll && args.kind == NormKind::kRms && args.bias == nullptr &&
         args.dim % 4 == 0 && args.dim <= 4 * kMaxFours * kThreads && InFours(args.x) &&
         InFours(args.y) && InFours(args.weight);
}

}  // namespace

void CudaNorm(const NormArgs& args, const CudaStep& step) {
  const bool logits = args.tokens == TokenSet::kLogits;
  const int rows = logits ? step.logit_count : step.token_count;
  if (rows == 0) {
    return;
  }
  const dim3 blocks(static_cast<unsigned>(rows));
  WithType(args.x.dtype, [&]<class T>() {
    if (InWholeFours(args)) {
      Launch(RmsNormKernel<T>, {blocks, RmsNormThreads(args.dim)}, step.stream, args);
    } else {
      Launch(NormKernel<T>, {blocks, kThreads}, step.stream, args,
             logits ? step.logit_tokens : nullptr);
    }
  });
}

}  // namespace evenflow
