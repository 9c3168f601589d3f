// How log decays come from their projections, for host and device. Pure functions: any thread.
#ifndef EVENFLOW_KERNELS_MATH_DECAY_GATE_H_
#define EVENFLOW_KERNELS_MATH_DECAY_GATE_H_

#include <cmath>

#include "kernels/math/activations.h"
#include "kernels/math/host_device.h"
#include "kernels/operations.h"

namespace evenflow {

// Not std::clamp: NaN must stay.
EVENFLOW_HOST_DEVICE inline float Clamp(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;
}

// The time step D of DecayGate::kTimeStep. `x` is the head's projection with its bias.
EVENFLOW_HOST_DEVICE inline float TimeStep(float x, float low, float high) {
  return Clamp(Softplus(x), low, high);
}

// g of one channel, or of a whole head; see DecayGate. `channel` is its index among all of the
// token's, and that of its bias.
EVENFLOW_HOST_DEVICE inline float LogDecay(const DecayGateArgs& args, int head, int64_t channel,
                                           float x) {
  const float bias = args.bias == nullptr ? 0.0f : args.bias[channel];
  switch (args.gate) {
    case DecayGate::kSoftplus:
      return args.rate[head] * Softplus(x + bias);
    case DecayGate::kLogSigmoid:
      return Clamp(LogSigmoid(x) / 16.0f, args.low, 0.0f);
    case DecayGate::kBounded:
      return args.low * Sigmoid(-args.rate[head] * (x + bias));
    case DecayGate::kLowerBounded:
      return bias == 0.0f ? LogSigmoid(x) : std::log(bias + (1.0f - bias) * Sigmoid(x));
    case DecayGate::kTimeStep:
      return args.rate[head] * TimeStep(x + bias, args.low, args.high);
  }
  __builtin_unreachable();
}

// The key channel that goes with a log decay under kLowerBounded: 1 - e^g.
EVENFLOW_HOST_DEVICE inline float KeyOfDecay(float log_decay) {
  return -std::expm1(log_decay);
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MATH_DECAY_GATE_H_
