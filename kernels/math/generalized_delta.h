// Channels of RWKV-7's keys and values, for host and device; see GeneralizedDeltaKeysArgs. Pure
// functions: any thread.
#ifndef EVENFLOW_KERNELS_MATH_GENERALIZED_DELTA_H_
#define EVENFLOW_KERNELS_MATH_GENERALIZED_DELTA_H_

#include <cmath>

#include "kernels/math/activations.h"
#include "kernels/math/host_device.h"

namespace evenflow {

// One channel's keys.
struct GeneralizedKeys {
  float erasing;  // a kappa
  float written;  // k'
  float erased;   // e
};

EVENFLOW_HOST_DEVICE inline GeneralizedKeys KeysOf(float k, float kappa, float rate,
                                                   float rate_weight, float log_decay) {
  const float a = Sigmoid(rate);
  return {a * kappa, k * (1.0f + (a - 1.0f) * rate_weight), std::exp(-log_decay) * kappa};
}

EVENFLOW_HOST_DEVICE inline float MixedValue(float v, float first, float mix) {
  return v + (first - v) * Sigmoid(mix);
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MATH_GENERALIZED_DELTA_H_
