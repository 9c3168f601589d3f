#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/step.h"

// Instruction sets whose vectors have no fixed size cannot live in the arrays below.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();

namespace evenflow {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

constexpr int64_t kLanes = hn::MaxLanes(D());
constexpr int kTileRows = 4;
constexpr int kTileOutputs = 3;
constexpr int64_t kBlockInputs = 256;  // of K: a group's converted weights stay in the first cache
constexpr int64_t kBlockRows = 64;     // their sums stay in the second cache

struct Bf16 {
  uint16_t bits;
};

HWY_INLINE V LoadWeights(const float* w) {
  return hn::LoadU(D(), w);
}

HWY_INLINE V LoadWeights(const Bf16* w) {
  const hn::Rebind<uint16_t, D> half;
  const hn::RebindToUnsigned<D> bits;
  const auto wide = hn::PromoteTo(bits, hn::LoadU(half, &w->bits));
  return hn::BitCast(D(), hn::ShiftLeft<16>(wide));
}

HWY_INLINE void LoadTail(const float* from, int64_t count, float* to) {
  std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
}

HWY_INLINE void LoadTail(const Bf16* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i].bits) << 16;
    std::memcpy(&to[i], &bits, sizeof(bits));
  }
}

// Fewer than kLanes values, zeros behind them. A zero input times a zero weight changes no sum.
template <class T>
HWY_INLINE V LoadTailVector(const T* from, int64_t count) {
  HWY_ALIGN float values[kLanes] = {};
  LoadTail(from, count, values);
  return hn::Load(D(), values);
}

// The running sums of a tile: R rows by N outputs.
template <int R, int N>
struct Sums {
  V v[R][N];

  HWY_INLINE void Clear() {
    for (int r = 0; r < R; ++r) {
      for (int n = 0; n < N; ++n) {
        v[r][n] = hn::Zero(D());
      }
    }
  }

  // Rows of sums are `stride` floats apart, outputs kLanes.
  HWY_INLINE void Load(const float* from, int64_t stride) {
    for (int r = 0; r < R; ++r) {
      for (int n = 0; n < N; ++n) {
        v[r][n] = hn::Load(D(), from + r * stride + n * kLanes);
      }
    }
  }

  HWY_INLINE void Store(float* to, int64_t stride) const {
    for (int r = 0; r < R; ++r) {
      for (int n = 0; n < N; ++n) {
        hn::Store(v[r][n], D(), to + r * stride + n * kLanes);
      }
    }
  }
};

// Goes on summing over `count` inputs. Only the last block of K may end within a vector.
template <int R, int N, class T>
HWY_INLINE void Accumulate(const float* HWY_RESTRICT x, int64_t x_stride, const T* HWY_RESTRICT w,
                           int64_t w_stride, int64_t count, Sums<R, N>& sums) {
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    V weights[N];
    for (int n = 0; n < N; ++n) {
      weights[n] = LoadWeights(w + n * w_stride + k);
    }
    for (int r = 0; r < R; ++r) {
      const V input = hn::LoadU(D(), x + r * x_stride + k);
      for (int n = 0; n < N; ++n) {
        sums.v[r][n] = hn::MulAdd(input, weights[n], sums.v[r][n]);
      }
    }
  }
  if (kLanes == 1 || k == count) {
    return;
  }
  for (int n = 0; n < N; ++n) {
    const V weights = LoadTailVector(w + n * w_stride + k, count - k);
    for (int r = 0; r < R; ++r) {
      const V input = LoadTailVector(x + r * x_stride + k, count - k);
      sums.v[r][n] = hn::MulAdd(input, weights, sums.v[r][n]);
    }
  }
}

HWY_INLINE void Finish(const Product& p, int64_t row, int64_t output, V sums) {
  float sum = hn::GetLane(hn::SumOfLanes(D(), sums));
  if (p.bias != nullptr) {
    sum += p.bias[output];
  }
  float* const y = p.y + row * p.y_stride + output;
  *y = p.add ? *y + sum : sum;
}

// ---- Few rows: weights go from memory straight through the registers. ----

template <int R, int N, class T>
HWY_INLINE void DirectTile(const Product& p, int64_t row, int64_t output) {
  Sums<R, N> sums;
  sums.Clear();
  Accumulate(p.x + row * p.x_stride, p.x_stride,
             static_cast<const T*>(p.w.data) + output * p.w.cols, p.w.cols, p.w.cols, sums);
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) {
      Finish(p, row + r, output + n, sums.v[r][n]);
    }
  }
}

template <int R, class T>
void DirectOutputs(const Product& p, int64_t first, int64_t last) {
  constexpr int kOutputs = R <= 2 ? 4 : kTileOutputs;
  int64_t output = first;
  for (; output + kOutputs <= last; output += kOutputs) {
    DirectTile<R, kOutputs, T>(p, 0, output);
  }
  for (; output < last; ++output) {
    DirectTile<R, 1, T>(p, 0, output);
  }
}

// ---- Many rows: a block of weights is converted once and serves all rows. ----

struct Block {
  int64_t first_row = 0, rows = 0;
  int64_t first_output = 0, outputs = 0;
  HWY_ALIGN float weights[kOutputGroup * kBlockInputs];
  HWY_ALIGN float sums[kBlockRows * kOutputGroup * kLanes];
};

template <class T>
void ConvertWeights(const Product& p, int64_t k, int64_t count, Block& block) {
  for (int64_t n = 0; n < block.outputs; ++n) {
    const T* const from = static_cast<const T*>(p.w.data) + (block.first_output + n) * p.w.cols + k;
    float* const to = block.weights + n * kBlockInputs;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      hn::Store(LoadWeights(from + i), D(), to + i);
    }
    LoadTail(from + i, count - i, to + i);
  }
}

template <int R, int N>
HWY_INLINE void BlockTile(const float* x, int64_t x_stride, int64_t count, const float* weights,
                          float* stored) {
  constexpr int64_t kStride = kOutputGroup * kLanes;
  Sums<R, N> sums;
  sums.Load(stored, kStride);
  Accumulate(x, x_stride, weights, kBlockInputs, count, sums);
  sums.Store(stored, kStride);
}

template <int R>
void BlockTiles(const Product& p, int64_t row, int64_t k, int64_t count, Block& block) {
  const float* const x = p.x + (block.first_row + row) * p.x_stride + k;
  float* const sums = block.sums + row * kOutputGroup * kLanes;
  int64_t n = 0;
  for (; n + kTileOutputs <= block.outputs; n += kTileOutputs) {
    BlockTile<R, kTileOutputs>(x, p.x_stride, count, block.weights + n * kBlockInputs,
                               sums + n * kLanes);
  }
  for (; n < block.outputs; ++n) {
    BlockTile<R, 1>(x, p.x_stride, count, block.weights + n * kBlockInputs, sums + n * kLanes);
  }
}

template <class T>
void MultiplyBlock(const Product& p, Block& block) {
  std::memset(block.sums, 0,
              static_cast<size_t>(block.rows * kOutputGroup * kLanes) * sizeof(float));
  for (int64_t k = 0; k < p.w.cols; k += kBlockInputs) {
    const int64_t count = std::min(kBlockInputs, p.w.cols - k);
    ConvertWeights<T>(p, k, count, block);
    int64_t row = 0;
    for (; row + kTileRows <= block.rows; row += kTileRows) {
      BlockTiles<kTileRows>(p, row, k, count, block);
    }
    for (; row < block.rows; ++row) {
      BlockTiles<1>(p, row, k, count, block);
    }
  }
  for (int64_t row = 0; row < block.rows; ++row) {
    for (int64_t n = 0; n < block.outputs; ++n) {
      Finish(p, block.first_row + row, block.first_output + n,
             hn::Load(D(), block.sums + (row * kOutputGroup + n) * kLanes));
    }
  }
}

template <class T>
void BlockedOutputs(const Product& p, int64_t first, int64_t last) {
  Block block;
  for (int64_t output = first; output < last; output += kOutputGroup) {
    block.first_output = output;
    block.outputs = std::min(kOutputGroup, last - output);
    for (int64_t row = 0; row < p.rows; row += kBlockRows) {
      block.first_row = row;
      block.rows = std::min(kBlockRows, p.rows - row);
      MultiplyBlock<T>(p, block);
    }
  }
}

template <class T>
void Multiply(const Product& p, int64_t first, int64_t last) {
  switch (p.rows) {
    case 1:
      return DirectOutputs<1, T>(p, first, last);
    case 2:
      return DirectOutputs<2, T>(p, first, last);
    case 3:
      return DirectOutputs<3, T>(p, first, last);
    case 4:
      return DirectOutputs<4, T>(p, first, last);
    default:
      return BlockedOutputs<T>(p, first, last);
  }
}

void MultiplyWeights(const Product& p, int64_t first, int64_t last) {
  if (p.w.dtype == DType::kBF16) {
    Multiply<Bf16>(p, first, last);
  } else {
    Multiply<float>(p, first, last);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace evenflow

HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace evenflow {

HWY_EXPORT(MultiplyWeights);

void MultiplyOutputs(const Product& product, int64_t first, int64_t last) {
  if (product.rows > 0) {
    HWY_DYNAMIC_DISPATCH(MultiplyWeights)(product, first, last);
  }
}

void CpuMatMul(const MatMulArgs& args, const CpuStep& step, WorkerPool& pool) {
  const bool logits = args.tokens == TokenSet::kLogits;
  const Product product{
      .x = static_cast<const float*>(args.x.data),
      .x_stride = args.x.stride,
      .rows = static_cast<int64_t>(logits ? step.logit_tokens.size() : step.tokens.size()),
      .w = args.w,
      .bias = args.bias,
      .y = static_cast<float*>(args.y.data),
      .y_stride = args.y.stride,
      .add = args.add};
  // A share should last some ten microseconds at least; several for each thread even out what else
  // the machine does.
  constexpr int64_t kShareProducts = 1 << 17;
  constexpr int64_t kSharesPerThread = 8;
  const int64_t groups = (args.w.rows + kOutputGroup - 1) / kOutputGroup;
  const int64_t shares =
      std::clamp<int64_t>(args.w.rows * args.w.cols * product.rows / kShareProducts, 1,
                          std::min(groups, kSharesPerThread * pool.threads()));
  pool.For(static_cast<int>(shares), [&](int share) {
    const auto begin = [&](int64_t i) {
      return std::min(groups * i / shares * kOutputGroup, args.w.rows);
    };
    MultiplyOutputs(product, begin(share), begin(share + 1));
  });
}

}  // namespace evenflow

#endif  // HWY_ONCE
