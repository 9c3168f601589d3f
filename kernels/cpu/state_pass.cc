#include "kernels/cpu/state_pass.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/state_pass.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/exp-inl.h"

HWY_BEFORE_NAMESPACE();

namespace evenflow {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Full = hn::ScalableTag<float>;
using One = hn::CappedTag<float, 1>;  // the columns left over: the same operations, one at a time

constexpr int kLanes = static_cast<int>(hn::MaxLanes(Full()));
constexpr int kTileKeys = 4;
constexpr int kTileVectors = 2;

template <class D>
HWY_INLINE hn::Vec<D> LoadState(D d, const float* state) {
  return hn::LoadU(d, state);
}

template <class D>
HWY_INLINE hn::Vec<D> LoadState(D d, const hwy::bfloat16_t* state) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::bfloat16_t, D>(), state));
}

template <class D>
HWY_INLINE void StoreState(D d, hn::Vec<D> s, float* state) {
  hn::StoreU(s, d, state);
}

template <class D>
HWY_INLINE void StoreState(D /*d*/, hn::Vec<D> s, hwy::bfloat16_t* state) {
  const hn::Rebind<hwy::bfloat16_t, D> half;
  hn::StoreU(hn::DemoteTo(half, s), half, state);
}

// The nearest value (ties to even) that the state's type holds.
template <class D>
HWY_INLINE hn::Vec<D> Round(D /*d*/, hn::Vec<D> s, const float* /*type*/) {
  return s;
}

template <class D>
HWY_INLINE hn::Vec<D> Round(D d, hn::Vec<D> s, const hwy::bfloat16_t* /*type*/) {
  const hn::RebindToUnsigned<D> bits_of;
  const auto bits = hn::BitCast(bits_of, s);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(bits_of, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(bits_of, 0x7fffu)));
  const auto quiet = hn::BitCast(d, hn::Or(bits, hn::Set(bits_of, 0x400000u)));
  const auto kept = hn::IfThenElse(hn::IsNaN(s), quiet, hn::BitCast(d, rounded));
  return hn::And(kept, hn::BitCast(d, hn::Set(bits_of, 0xffff0000u)));
}

template <class D>
HWY_INLINE void Observe(D d, hn::Vec<D> s, const StatePass& pass, int column) {
  float* square = pass.health + column;
  float* max_abs = square + pass.columns;
  float* non_finite = max_abs + pass.columns;
  const auto magnitude = hn::Abs(s);
  const auto finite = hn::Le(magnitude, hn::Set(d, 3.402823466e38f));  // false for NaN
  const auto kept = hn::IfThenElseZero(finite, magnitude);
  const auto counted = hn::IfThenElse(finite, hn::Zero(d), hn::Set(d, 1.0f));
  hn::StoreU(hn::MulAdd(kept, kept, hn::LoadU(d, square)), d, square);
  hn::StoreU(hn::Max(kept, hn::LoadU(d, max_abs)), d, max_abs);
  hn::StoreU(hn::Add(counted, hn::LoadU(d, non_finite)), d, non_finite);
}

template <int kKeys, int kVectors, class D>
struct Tile {
  hn::Vec<D> s[kKeys][kVectors];
};

// Takes the tile through the pending blocks; writes it when it has had those to be stored.
template <int kKeys, int kVectors, class D, class State>
HWY_INLINE void Fold(D d, const StatePass& pass, int key, int column, State* state,
                     Tile<kKeys, kVectors, D>& tile) {
  constexpr int kStep = static_cast<int>(hn::MaxLanes(D()));
  for (int fold = 0; fold < pass.folds; ++fold) {
    for (int k = 0; k < kKeys; ++k) {
      const auto decay = hn::Set(d, pass.decay[fold * pass.key_dim + key + k]);
      for (int v = 0; v < kVectors; ++v) {
        tile.s[k][v] = hn::Mul(tile.s[k][v], decay);
      }
    }
    for (int j = fold * pass.entries; j < (fold + 1) * pass.entries; ++j) {
      hn::Vec<D> u[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        u[v] = hn::LoadU(d, pass.fold_values[j] + column + v * kStep);
      }
      for (int k = 0; k < kKeys; ++k) {
        const auto w = hn::Set(d, pass.fold_keys[j][key + k]);
        for (int v = 0; v < kVectors; ++v) {
          tile.s[k][v] = hn::MulAdd(w, u[v], tile.s[k][v]);
        }
      }
    }
    for (int k = 0; k < kKeys; ++k) {
      for (int v = 0; v < kVectors; ++v) {
        tile.s[k][v] = Round(d, tile.s[k][v], state);
        if (fold + 1 == pass.stored) {
          StoreState(d, tile.s[k][v], state + k * pass.stride + v * kStep);
          Observe(d, tile.s[k][v], pass, column + v * kStep);
        }
      }
    }
  }
}

template <int kKeys, int kVectors, class D, class State>
HWY_INLINE void PassTile(D d, const StatePass& pass, int key, int column) {
  constexpr int kStep = static_cast<int>(hn::MaxLanes(D()));
  State* state = static_cast<State*>(pass.state) + int64_t{key} * pass.stride + column;
  Tile<kKeys, kVectors, D> tile;
  for (int k = 0; k < kKeys; ++k) {
    for (int v = 0; v < kVectors; ++v) {
      tile.s[k][v] = LoadState(d, state + k * pass.stride + v * kStep);
      // Rows are too short for the hardware to run ahead.
      __builtin_prefetch(state + (k + kKeys) * pass.stride + v * kStep);
    }
  }
  if (pass.folds > 0) {
    Fold(d, pass, key, column, state, tile);
  }
  for (int r = 0; r < pass.reads; ++r) {
    float* product = pass.products + int64_t{r} * pass.columns + column;
    hn::Vec<D> sum[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      sum[v] = hn::LoadU(d, product + v * kStep);
    }
    for (int k = 0; k < kKeys; ++k) {
      const auto x = hn::Set(d, pass.x[r][key + k]);
      for (int v = 0; v < kVectors; ++v) {
        sum[v] = hn::MulAdd(x, tile.s[k][v], sum[v]);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(sum[v], d, product + v * kStep);
    }
  }
}

template <int kKeys, class State>
HWY_INLINE void PassKeys(const StatePass& pass, int key) {
  int column = 0;
  for (; column + kTileVectors * kLanes <= pass.columns; column += kTileVectors * kLanes) {
    PassTile<kKeys, kTileVectors, Full, State>(Full(), pass, key, column);
  }
  for (; column + kLanes <= pass.columns; column += kLanes) {
    PassTile<kKeys, 1, Full, State>(Full(), pass, key, column);
  }
  for (; column < pass.columns; ++column) {
    PassTile<kKeys, 1, One, State>(One(), pass, key, column);
  }
}

// The order of every sum is that of the keys, however tiles are cut.
template <class State>
HWY_INLINE void PassAllKeys(const StatePass& pass) {
  int key = 0;
  for (; key + kTileKeys <= pass.key_dim; key += kTileKeys) {
    PassKeys<kTileKeys, State>(pass, key);
  }
  for (; key < pass.key_dim; ++key) {
    PassKeys<1, State>(pass, key);
  }
}

void PassState(const StatePass& pass) {
  for (int64_t i = 0; !pass.add && i < int64_t{pass.reads} * pass.columns; ++i) {
    pass.products[i] = 0;
  }
  if (pass.stored > 0) {
    for (int i = 0; i < 3 * pass.columns; ++i) {
      pass.health[i] = 0;
    }
  }
  if (pass.dtype == DType::kF32) {
    PassAllKeys<float>(pass);
  } else {
    PassAllKeys<hwy::bfloat16_t>(pass);
  }
}

template <class D, class State>
HWY_INLINE void AddStateAt(D d, const State* from, State* to) {
  StoreState(d, Round(d, hn::Add(LoadState(d, to), LoadState(d, from)), to), to);
}

template <class State>
HWY_INLINE void AddAllStates(const State* from, State* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    AddStateAt(Full(), from + i, to + i);
  }
  for (; i < count; ++i) {
    AddStateAt(One(), from + i, to + i);
  }
}

void AddStates(DType dtype, const void* from, void* to, int64_t count) {
  if (dtype == DType::kF32) {
    AddAllStates(static_cast<const float*>(from), static_cast<float*>(to), count);
  } else {
    AddAllStates(static_cast<const hwy::bfloat16_t*>(from), static_cast<hwy::bfloat16_t*>(to),
                 count);
  }
}

HWY_INLINE float Dot(const float* a, const float* b, int dim) {
  const Full d;
  auto even = hn::Zero(d);
  auto odd = hn::Zero(d);
  int k = 0;
  for (; k + 2 * kLanes <= dim; k += 2 * kLanes) {
    even = hn::MulAdd(hn::LoadU(d, a + k), hn::LoadU(d, b + k), even);
    odd = hn::MulAdd(hn::LoadU(d, a + k + kLanes), hn::LoadU(d, b + k + kLanes), odd);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  for (; k < dim; ++k) {
    sum += a[k] * b[k];
  }
  return sum;
}

void Dots(const float* const* keys, int count, const float* x, int dim, float* out) {
  for (int i = 0; i < count; ++i) {
    out[i] = Dot(keys[i], x, dim);
  }
}

template <class D>
HWY_INLINE void AddRowsAt(D d, const WeightedRows& sum, float* y, int column) {
  auto total = hn::Mul(hn::Set(d, sum.scale), hn::LoadU(d, y + column));
  for (int i = 0; i < sum.count; ++i) {
    total = hn::MulAdd(hn::Set(d, sum.weights[i]), hn::LoadU(d, sum.rows[i] + column), total);
  }
  hn::StoreU(total, d, y + column);
}

void AddRows(const WeightedRows& sum, float* y, int columns) {
  int column = 0;
  for (; column + kLanes <= columns; column += kLanes) {
    AddRowsAt(Full(), sum, y, column);
  }
  for (; column < columns; ++column) {
    AddRowsAt(One(), sum, y, column);
  }
}

template <class D>
HWY_INLINE void DecayChannelsAt(D d, const ChannelDecay& decay, int k, const float* x, float* out) {
  auto difference = hn::LoadU(d, decay.now + k);
  if (decay.then != nullptr) {
    difference = hn::Sub(difference, hn::LoadU(d, decay.then + k));
  }
  const auto factor = ExpOrNaN(d, difference);
  for (int i = 0; i < decay.count; ++i, x += decay.dim, out += decay.dim) {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + k), factor), d, out + k);
  }
}

void DecayChannels(const ChannelDecay& decay, const float* x, float* out) {
  int k = 0;
  for (; k + kLanes <= decay.dim; k += kLanes) {
    DecayChannelsAt(Full(), decay, k, x, out);
  }
  for (; k < decay.dim; ++k) {
    DecayChannelsAt(One(), decay, k, x, out);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace evenflow

HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace evenflow {

HWY_EXPORT(PassState);
HWY_EXPORT(AddStates);
HWY_EXPORT(Dots);
HWY_EXPORT(AddRows);
HWY_EXPORT(DecayChannels);

void PassState(const StatePass& pass) {
  HWY_DYNAMIC_DISPATCH(PassState)(pass);
}

void AddStates(DType dtype, const void* from, void* to, int64_t count) {
  HWY_DYNAMIC_DISPATCH(AddStates)(dtype, from, to, count);
}

void Dots(const float* const* keys, int count, const float* x, int dim, float* out) {
  HWY_DYNAMIC_DISPATCH(Dots)(keys, count, x, dim, out);
}

void AddRows(const WeightedRows& sum, float* y, int columns) {
  HWY_DYNAMIC_DISPATCH(AddRows)(sum, y, columns);
}

void DecayChannels(const ChannelDecay& decay, const float* x, float* out) {
  HWY_DYNAMIC_DISPATCH(DecayChannels)(decay, x, out);
}

}  // namespace evenflow
#endif  // HWY_ONCE
