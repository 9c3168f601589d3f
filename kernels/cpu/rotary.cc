#include "kernels/cpu/rotary.h"

#include <cmath>

#include "kernels/math/rotary.h"

namespace evenflow {

void RotaryTable::SetPosition(float base, int dim, int64_t position) {
  const auto half = static_cast<size_t>(dim / 2);
  if (base != base_ || frequency_.size() != half) {
    base_ = base;
    frequency_.resize(half);
    cos_.resize(half);
    sin_.resize(half);
    for (size_t i = 0; i < half; ++i) {
      frequency_[i] = RotaryFrequency(base, static_cast<int>(i), dim);
    }
  }
  for (size_t i = 0; i < half; ++i) {
    const float angle = RotaryAngle(position, frequency_[i]);
    cos_[i] = std::cos(angle);
    sin_[i] = std::sin(angle);
  }
}

void RotaryTable::Rotate(float* x) const {
  const size_t half = cos_.size();
  for (size_t i = 0; i < half; ++i) {
    const RotaryPair turned = evenflow::Rotate({x[i], x[i + half]}, cos_[i], sin_[i]);
    x[i] = turned.low;
    x[i + half] = turned.high;
  }
}

}  // namespace evenflow
