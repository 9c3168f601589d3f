// The product for few rows: weights go from memory straight through the registers. Included by
// matmul.cc once for each instruction set. Pure functions: any thread.
#if defined(EVENFLOW_KERNELS_CPU_MATMUL_FEW_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EVENFLOW_KERNELS_CPU_MATMUL_FEW_ROWS_INL_H_
#undef EVENFLOW_KERNELS_CPU_MATMUL_FEW_ROWS_INL_H_
#else
#define EVENFLOW_KERNELS_CPU_MATMUL_FEW_ROWS_INL_H_
#endif

#include <algorithm>

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/cpu/matmul.h"

HWY_BEFORE_NAMESPACE();

namespace evenflow {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

constexpr int64_t kLanes = hn::MaxLanes(D());

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

HWY_INLINE float ToFloat(float w) {
  return w;
}

HWY_INLINE float ToFloat(Bf16 w) {
  const uint32_t bits = static_cast<uint32_t>(w.bits) << 16;
  float value;
  hwy::CopyBytes<sizeof(value)>(&bits, &value);
  return value;
}

// `count` < kLanes values, zeros behind them. A zero input times a zero weight changes no sum.
template <class T>
HWY_INLINE V LoadTail(const T* from, int64_t count) {
  HWY_ALIGN float values[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    values[i] = i < count ? ToFloat(from[i]) : 0.0f;
  }
  return hn::Load(D(), values);
}

HWY_INLINE void Finish(const Product& p, int64_t row, int64_t output, V sums) {
  float sum = hn::GetLane(hn::SumOfLanes(D(), sums));
  if (p.bias != nullptr) {
    sum += p.bias[output];
  }
  float* const y = p.y + row * p.y_stride + output;
  *y = p.add ? *y + sum : sum;
}

// Weights are asked for so many bytes before they are used, counted along memory: adjacent rows of
// weights are one stream, and this is the time that main memory takes.
constexpr int64_t kAheadBytes = 8192;
constexpr int64_t kLineBytes = 64;

// R rows by N outputs, the weights of N adjacent rows.
template <int R, int N, class T>
HWY_INLINE void DirectTile(const Product& p, int64_t output) {
  constexpr int64_t kStep = std::max<int64_t>(kLanes, kLineBytes / sizeof(T));
  const int64_t inputs = p.w.cols;
  const T* const w = static_cast<const T*>(p.w.data) + output * inputs;
  V sums[R][N];
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) {
      sums[r][n] = hn::Zero(D());
    }
  }
  const auto add = [&](int64_t k) {
    V weights[N];
    for (int n = 0; n < N; ++n) {
      weights[n] = LoadWeights(w + n * inputs + k);
    }
    for (int r = 0; r < R; ++r) {
      const V x = hn::LoadU(D(), p.x + r * p.x_stride + k);
      for (int n = 0; n < N; ++n) {
        sums[r][n] = hn::MulAdd(x, weights[n], sums[r][n]);
      }
    }
  };
  int64_t k = 0;
  for (; k + kStep <= inputs; k += kStep) {
    for (int n = 0; n < N; ++n) {
      hwy::Prefetch(reinterpret_cast<const char*>(w + N * k) + n * kLineBytes + kAheadBytes);
    }
    for (int64_t i = 0; i < kStep; i += kLanes) {
      add(k + i);
    }
  }
  for (; k + kLanes <= inputs; k += kLanes) {
    add(k);
  }
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) {
      if (kLanes > 1 && k < inputs) {
        sums[r][n] = hn::MulAdd(LoadTail(p.x + r * p.x_stride + k, inputs - k),
                                LoadTail(w + n * inputs + k, inputs - k), sums[r][n]);
      }
      Finish(p, r, output + n, sums[r][n]);
    }
  }
}

template <int R, class T>
void DirectOutputs(const Product& p, int64_t first, int64_t last) {
  // So few that memory is read in its order, as many as it takes to have enough sums under way to
  // keep up with it.
  constexpr int kOutputs = kLanes < 16 ? (R <= 2 ? 2 : 3) : (R <= 2 ? 1 : 2);
  int64_t output = first;
  for (; output + kOutputs <= last; output += kOutputs) {
    DirectTile<R, kOutputs, T>(p, output);
  }
  for (; output < last; ++output) {
    DirectTile<R, 1, T>(p, output);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace evenflow

HWY_AFTER_NAMESPACE();

#endif  // EVENFLOW_KERNELS_CPU_MATMUL_FEW_ROWS_INL_H_
