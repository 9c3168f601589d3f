// Constants and small formulas of kernels/precondition.h, for host and device. Pure functions: any
// thread.
#ifndef EVENFLOW_KERNELS_MATH_PRECONDITION_H_
#define EVENFLOW_KERNELS_MATH_PRECONDITION_H_

#include <cmath>
#include <cstdint>

#include "kernels/math/host_device.h"
#include "kernels/precondition.h"

namespace evenflow {

inline constexpr float kMinKeyNorm = 1e-6f;
inline constexpr float kMinDirectionNorm = 1e-12f;
inline constexpr float kMinNormaliser = 1e-6f;  // of kV3

// 1 + x.A x, given m and x.A x / m. Below 1 only by rounding, except with kV3's A.
EVENFLOW_HOST_DEVICE inline float Denominator(PreconditionMode mode, float growth, float x_y) {
  constexpr float kMin = 1e-4f;
  const float sum = 1 + growth * x_y;
  const float least = mode == PreconditionMode::kV3 ? kMin : 1.0f;
  return sum < least ? least : sum;  // NaN stays
}

// What kV3 adds to A's diagonal with the tokens [begin, end).
EVENFLOW_HOST_DEVICE inline float Nudges(int64_t begin, int64_t end) {
  constexpr int64_t kPeriod = 20;
  constexpr float kNudge = 1e-3f;
  return kNudge * static_cast<float>(end / kPeriod - begin / kPeriod);
}

// p, of the leak.
inline float LeakSize(const Preconditioner& of) {
  return static_cast<float>(std::sqrt((1 - of.mu) * of.lambda0 * of.key_dim));
}

// m after that many tokens of a block.
EVENFLOW_HOST_DEVICE inline float Growth(const Preconditioner& of, int64_t tokens) {
  return of.mode == PreconditionMode::kV3
             ? 1.0f
             : static_cast<float>(std::pow(of.mu, -static_cast<double>(tokens)));
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MATH_PRECONDITION_H_
