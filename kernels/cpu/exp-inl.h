// An exponential that a bad number comes out of as it went in. Included once for each instruction
// set. Pure function: any thread.
#if defined(EVENFLOW_KERNELS_CPU_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EVENFLOW_KERNELS_CPU_EXP_INL_H_
#undef EVENFLOW_KERNELS_CPU_EXP_INL_H_
#else
#define EVENFLOW_KERNELS_CPU_EXP_INL_H_
#endif

#include <hwy/highway.h>
// Highway's headers come in this order.
#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();

namespace evenflow {
namespace HWY_NAMESPACE {

// e^x for x <= 0. Highway's takes NaN for a very negative number: 0.
template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> ExpOrNaN(D d, hwy::HWY_NAMESPACE::Vec<D> x) {
  namespace hn = hwy::HWY_NAMESPACE;
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x));
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace evenflow

HWY_AFTER_NAMESPACE();

#endif  // EVENFLOW_KERNELS_CPU_EXP_INL_H_
