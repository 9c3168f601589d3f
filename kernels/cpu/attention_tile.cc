#include "kernels/cpu/attention_tile.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_tile.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/exp-inl.h"

HWY_BEFORE_NAMESPACE();

namespace evenflow {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Full = hn::ScalableTag<float>;
using One = hn::CappedTag<float, 1>;  // what is left over: the same operations, one at a time

constexpr int kLanes = static_cast<int>(hn::MaxLanes(Full()));
constexpr int64_t kBlock = 32;  // tokens that all queries see before the next come from memory

// scores[i] = q . k_i for kKeys tokens. The order of a sum is that of the channels, for each lane.
template <int kKeys>
HWY_INLINE void ScoreKeys(const float* q, const AttentionSpan& span, int dim, float* scores) {
  const Full d;
  const One one;
  hn::Vec<Full> sums[kKeys];
  hn::Vec<One> rest[kKeys];
  for (int i = 0; i < kKeys; ++i) {
    sums[i] = hn::Zero(d);
    rest[i] = hn::Zero(one);
  }
  int c = 0;
  for (; c + kLanes <= dim; c += kLanes) {
    const auto x = hn::LoadU(d, q + c);
    for (int i = 0; i < kKeys; ++i) {
      sums[i] = hn::MulAdd(x, hn::LoadU(d, span.keys + i * span.stride + c), sums[i]);
    }
  }
  for (; c < dim; ++c) {
    const auto x = hn::LoadU(one, q + c);
    for (int i = 0; i < kKeys; ++i) {
      rest[i] = hn::MulAdd(x, hn::LoadU(one, span.keys + i * span.stride + c), rest[i]);
    }
  }
  for (int i = 0; i < kKeys; ++i) {
    scores[i] = hn::GetLane(hn::SumOfLanes(d, sums[i])) + hn::GetLane(rest[i]);
  }
}

HWY_INLINE void Score(const float* q, AttentionSpan span, int dim, float* scores) {
  constexpr int kKeys = 4;
  int64_t i = 0;
  for (; i + kKeys <= span.count; i += kKeys) {
    ScoreKeys<kKeys>(q, span, dim, scores + i);
    span.keys += kKeys * span.stride;
  }
  for (; i < span.count; ++i) {
    ScoreKeys<1>(q, span, dim, scores + i);
    span.keys += span.stride;
  }
}

// scores[i] <- e^{scale (scores[i] - max)}; returns their sum.
HWY_INLINE float Exponentials(float scale, int64_t count, float* scores) {
  const Full d;
  const One one;
  auto maxima = hn::Set(d, scores[0]);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    maxima = hn::Max(maxima, hn::LoadU(d, scores + i));
  }
  float max = hn::GetLane(hn::MaxOfLanes(d, maxima));
  for (; i < count; ++i) {
    max = std::max(max, scores[i]);
  }
  auto sums = hn::Zero(d);
  auto rest = hn::Zero(one);
  for (i = 0; i + kLanes <= count; i += kLanes) {
    const auto x = hn::Sub(hn::LoadU(d, scores + i), hn::Set(d, max));
    const auto p = ExpOrNaN(d, hn::Mul(x, hn::Set(d, scale)));
    hn::StoreU(p, d, scores + i);
    sums = hn::Add(sums, p);
  }
  for (; i < count; ++i) {
    const auto x = hn::Sub(hn::LoadU(one, scores + i), hn::Set(one, max));
    const auto p = ExpOrNaN(one, hn::Mul(x, hn::Set(one, scale)));
    hn::StoreU(p, one, scores + i);
    rest = hn::Add(rest, p);
  }
  return hn::GetLane(hn::SumOfLanes(d, sums)) + hn::GetLane(rest);
}

// y[c] += sum_i p_i v_i[c] for kVectors vectors of columns, in the order of the tokens.
template <int kVectors, class D>
HWY_INLINE void AddColumns(D d, const float* p, const AttentionSpan& span, int column, float* y) {
  constexpr int kStep = static_cast<int>(hn::MaxLanes(D()));
  hn::Vec<D> sums[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    sums[v] = hn::LoadU(d, y + column + v * kStep);
  }
  const float* values = span.values + column;
  for (int64_t i = 0; i < span.count; ++i, values += span.stride) {
    const auto weight = hn::Set(d, p[i]);
    for (int v = 0; v < kVectors; ++v) {
      sums[v] = hn::MulAdd(weight, hn::LoadU(d, values + v * kStep), sums[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    hn::StoreU(sums[v], d, y + column + v * kStep);
  }
}

HWY_INLINE void AddValues(const float* p, const AttentionSpan& span, int dim, float* y) {
  constexpr int kVectors = 8;
  int column = 0;
  for (; column + kVectors * kLanes <= dim; column += kVectors * kLanes) {
    AddColumns<kVectors>(Full(), p, span, column, y);
  }
  for (; column + kLanes <= dim; column += kLanes) {
    AddColumns<1>(Full(), p, span, column, y);
  }
  for (; column < dim; ++column) {
    AddColumns<1>(One(), p, span, column, y);
  }
}

// Calls visit(query, part, first) for each query and the part of each block that it sees: tokens
// [first, first + part.count) of what it attends to.
template <class Visit>
HWY_INLINE void ForBlocks(const AttentionTile& tile, const Visit& visit) {
  int64_t span_begin = 0;
  for (const AttentionSpan& span : tile.spans) {
    for (int64_t at = 0; at < span.count; at += kBlock) {
      for (int i = 0; i < tile.query_count; ++i) {
        const AttentionQuery& query = tile.queries[i];
        const int64_t begin = std::max(query.begin - span_begin, at);
        const int64_t end = std::min({query.end - span_begin, at + kBlock, span.count});
        if (begin < end) {
          const int64_t offset = begin * span.stride;
          visit(query,
                AttentionSpan{span.keys + offset, span.values + offset, span.stride, end - begin},
                begin + span_begin - query.begin);
        }
      }
    }
    span_begin += span.count;
  }
}

void Attend(const AttentionTile& tile) {
  ForBlocks(tile, [&](const AttentionQuery& query, const AttentionSpan& part, int64_t first)
                      HWY_ATTR { Score(query.q, part, tile.dim, query.scores + first); });
  for (int i = 0; i < tile.query_count; ++i) {
    const AttentionQuery& query = tile.queries[i];
    const int64_t count = query.end - query.begin;
    const float sum = Exponentials(tile.scale, count, query.scores);
    for (int64_t j = 0; j < count; ++j) {
      query.scores[j] /= sum;
    }
    std::fill_n(query.y, tile.dim, 0.0f);
  }
  ForBlocks(tile, [&](const AttentionQuery& query, const AttentionSpan& part, int64_t first)
                      HWY_ATTR { AddValues(query.scores + first, part, tile.dim, query.y); });
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace evenflow

HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace evenflow {

HWY_EXPORT(Attend);

void Attend(const AttentionTile& tile) {
  HWY_DYNAMIC_DISPATCH(Attend)(tile);
}

}  // namespace evenflow
#endif  // HWY_ONCE
