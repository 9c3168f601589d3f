#include "kernels/cpu/logits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/logits.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// Highway's headers come in this order.
#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();

namespace evenflow {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Full = hn::ScalableTag<float>;
using One = hn::CappedTag<float, 1>;

// Terms that are added in fp32 before their sum goes to double.
constexpr int64_t kBlock = 1024;

float MaxLogit(const float* x, int64_t count) {
  const Full d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto infinity = hn::Set(d, __builtin_inff());
  auto max = hn::Neg(infinity);
  auto bad = hn::Lt(infinity, infinity);  // none
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto value = hn::LoadU(d, x + i);
    bad = hn::Or(bad, hn::Not(hn::Lt(value, infinity)));  // NaN compares false
    max = hn::Max(max, value);
  }
  bool any_bad = !hn::AllFalse(d, bad);
  float result = hn::GetLane(hn::MaxOfLanes(d, max));
  for (; i < count; ++i) {
    any_bad = any_bad || !(x[i] < __builtin_inff());
    result = x[i] > result ? x[i] : result;
  }
  return any_bad ? __builtin_nanf("") : result;
}

template <class D>
HWY_INLINE hn::Vec<D> WeightsAt(D d, const float* x, float max, float temperature, float* weights) {
  const auto difference = hn::Sub(hn::LoadU(d, x), hn::Set(d, max));
  // Divided, as the reciprocal of a tiny temperature is not finite. Exp takes -Inf to 0 only after
  // it is bounded; e^-200 is 0 already.
  const auto exponent = hn::Max(hn::Div(difference, hn::Set(d, temperature)), hn::Set(d, -200.0f));
  const auto weight = hn::Exp(d, exponent);
  if (weights != nullptr) {
    hn::StoreU(weight, d, weights);
  }
  return weight;
}

double ExpWeights(const float* x, int64_t count, float max, float temperature, float* weights) {
  const Full d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto at = [&](int64_t i) { return weights == nullptr ? nullptr : weights + i; };
  double total = 0;
  int64_t i = 0;
  while (i + lanes <= count) {
    const int64_t end = i + kBlock < count ? i + kBlock : count;
    auto sum = hn::Zero(d);
    for (; i + lanes <= end; i += lanes) {
      sum = hn::Add(sum, WeightsAt(d, x + i, max, temperature, at(i)));
    }
    total += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)));
  }
  for (; i < count; ++i) {
    total += static_cast<double>(hn::GetLane(WeightsAt(One(), x + i, max, temperature, at(i))));
  }
  return total;
}

}  // namespace HWY_NAMESPACE
}  // namespace evenflow

HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace evenflow {

HWY_EXPORT(MaxLogit);
HWY_EXPORT(ExpWeights);

float MaxLogit(const float* x, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(MaxLogit)(x, count);
}

double ExpWeights(const float* x, int64_t count, float max, float temperature, float* weights) {
  return HWY_DYNAMIC_DISPATCH(ExpWeights)(x, count, max, temperature, weights);
}

}  // namespace evenflow
#endif  // HWY_ONCE
