#include "kernels/cpu/elementwise.h"

#include "kernels/math/activations.h"

namespace evenflow {
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
      return Apply<Silu>(x, count);
    case Activation::kRelu:
      return Apply<Relu>(x, count);
    case Activation::kElu1:
      return Apply<Elu1>(x, count);
    case Activation::kSigmoid:
      return Apply<Sigmoid>(x, count);
  }
}

}  // namespace evenflow
