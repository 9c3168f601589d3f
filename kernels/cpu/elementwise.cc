#include "kernels/cpu/elementwise.h"

#include "kernels/math/activations.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/exp-inl.h"

HWY_BEFORE_NAMESPACE();

namespace evenflow {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// x <- Sigmoid(x) or Silu(x) of kernels/math/activations.h, a vector at a time.
template <class D>
HWY_INLINE void GateAt(D d, bool silu, float* at) {
  const auto x = hn::LoadU(d, at);
  const auto one = hn::Set(d, 1.0f);
  const auto e = ExpOrNaN(d, hn::Neg(hn::Abs(x)));
  const auto gate = hn::Div(hn::IfThenElse(hn::Ge(x, hn::Zero(d)), one, e), hn::Add(one, e));
  const auto result = silu ? hn::Mul(x, gate) : gate;
  hn::StoreU(result, d, at);
}

void Gate(bool silu, float* x, int64_t count) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    GateAt(d, silu, x + i);
  }
  for (; i < count; ++i) {
    GateAt(hn::CappedTag<float, 1>(), silu, x + i);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace evenflow

HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace evenflow {

HWY_EXPORT(Gate);

namespace {

template <float (*function)(float)>
void Apply(float* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    x[i] = function(x[i]);
  }
}

}  // namespace

void Activate(Activation activation, float* x, int64_t count) {
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kSilu:
    case Activation::kSigmoid:
      HWY_DYNAMIC_DISPATCH(Gate)(activation == Activation::kSilu, x, count);
      return;
    case Activation::kRelu:
      return Apply<Relu>(x, count);
    case Activation::kElu1:
      return Apply<Elu1>(x, count);
    case Activation::kTanh:
      return Apply<Tanh>(x, count);
    case Activation::kSquaredRelu:
      return Apply<SquaredRelu>(x, count);
  }
}

}  // namespace evenflow

#endif  // HWY_ONCE
