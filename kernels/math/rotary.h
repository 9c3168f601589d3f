// Rotary position angles, for host and device. Pure functions: any thread.
#ifndef EVENFLOW_KERNELS_MATH_ROTARY_H_
#define EVENFLOW_KERNELS_MATH_ROTARY_H_

#include <cmath>
#include <cstdint>

#include "kernels/math/host_device.h"

namespace evenflow {

// The frequency of pair i of a head of `dim` channels: base^(-2i / dim), radians per position.
EVENFLOW_HOST_DEVICE inline double RotaryFrequency(double base, int i, int dim) {
  return std::pow(base, -2.0 * i / dim);
}

// position * frequency modulo 2 pi, in [-pi, pi], to about 1e-15 for every position below 2^53: the
// product and 2 pi are carried as sums of two doubles. So angles between any two positions are as
// exact at 10^12 as at 0.
EVENFLOW_HOST_DEVICE inline float RotaryAngle(int64_t position, double frequency) {
  constexpr double kTwoPiHigh = 6.283185307179586232;
  constexpr double kTwoPiLow = 2.449293598294706414e-16;
  const double p = static_cast<double>(position);
  const double high = p * frequency;
  const double low = std::fma(p, frequency, -high);
  const double turns = std::rint(high / kTwoPiHigh);
  const double rest = std::fma(-turns, kTwoPiHigh, high);
  return static_cast<float>(std::fma(-turns, kTwoPiLow, rest) + low);
}

struct RotaryPair {
  float low, high;
};

// Channels i and i + dim / 2 of a head, turned by their angle.
EVENFLOW_HOST_DEVICE inline RotaryPair Rotate(RotaryPair x, float cos, float sin) {
  return {x.low * cos - x.high * sin, x.high * cos + x.low * sin};
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MATH_ROTARY_H_
