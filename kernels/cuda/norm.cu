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

constexpr int kRowWarps = 4;       // of a block
constexpr int kMaxFours = 16;      // of a lane
constexpr int kFewestTokens = 17;  // of a step for which a block a row would be too much

// RMSNorm for many rows, a warp for each: see ServesWarps.
template <class T>
__global__ void __launch_bounds__(32 * kRowWarps) RowNormKernel(NormArgs args, int rows) {
  AwaitInputs();
  const int64_t row = int64_t{blockIdx.x} * kRowWarps + threadIdx.x / 32;
  if (row >= rows) {
    return;
  }
  const int first = static_cast<int>(threadIdx.x % 32) * 4;
  const T* const x = static_cast<const T*>(args.x.data) + row * args.x.stride;
  Four values[kMaxFours];
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kMaxFours; ++j) {
    const int i = first + 128 * j;
    values[j] = i < args.dim ? LoadFour(x + i) : Four{};
  }
#pragma unroll
  for (int j = 0; j < kMaxFours; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      squares += values[j].x[e] * values[j].x[e];
    }
  }
  const float factor = InverseRms(WarpSum(squares), args.dim, args.eps);
#pragma unroll
  for (int j = 0; j < kMaxFours; ++j) {
    const int i = first + 128 * j;
    if (i < args.dim) {
      const Four weight = args.weight == nullptr ? Four{{1, 1, 1, 1}} : LoadFour(args.weight + i);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        values[j].x[e] *= factor * weight.x[e];
      }
      StoreFour(args.y, row * args.y.stride + i, values[j]);
    }
  }
}

bool ServesWarps(const NormArgs& args, const CudaStep& step) {
  return !step.batch_invariant && step.token_count >= kFewestTokens &&
         args.tokens == TokenSet::kAll && args.kind == NormKind::kRms && args.bias == nullptr &&
         args.dim <= 128 * kMaxFours && args.dim % 4 == 0 && InFours(args.x) && InFours(args.y) &&
         InFours(args.weight);
}

}  // namespace

void CudaNorm(const NormArgs& args, const CudaStep& step) {
  const bool logits = args.tokens == TokenSet::kLogits;
  const int rows = logits ? step.logit_count : step.token_count;
  if (ServesWarps(args, step)) {
    WithType(args.x.dtype, [&]<class T>() {
      Launch(RowNormKernel<T>, {dim3(CeilDiv(rows, kRowWarps)), 32 * kRowWarps}, step.stream, args,
             rows);
    });
  } else if (rows > 0) {
    WithType(args.x.dtype, [&]<class T>() {
      Launch(NormKernel<T>, {dim3(static_cast<unsigned>(rows)), kThreads}, step.stream, args,
             logits ? step.logit_tokens : nullptr);
    });
  }
}

}  // namespace evenflow
