// Formulas of the sampler that devices share. Pure functions.
#ifndef EVENFLOW_KERNELS_MATH_SAMPLING_H_
#define EVENFLOW_KERNELS_MATH_SAMPLING_H_

#include <cmath>

#include "kernels/math/host_device.h"

namespace evenflow {

// How often a token was seen among those looked back at; the newest counts 1, the one before it
// `decay`, and so on.
struct Occurrences {
  float count = 0;   // summed
  float newest = 0;  // of the newest occurrence alone
};

// The logit of a token that was seen. Repetition as CTRL (arXiv 1909.05858) with the sign minded;
// frequency and presence are subtracted after it.
EVENFLOW_HOST_DEVICE inline float Penalize(float logit, float repetition, float frequency,
                                           float presence, Occurrences seen) {
  const float repeated = logit > 0 ? logit / repetition : logit * repetition;
  return repeated - frequency * seen.count - presence * seen.newest;
}

// A token's weight e^{(logit - max) / temperature} in the draw. Divided, as the reciprocal of a
// tiny temperature is not finite; e^-200 is 0 already. (The CPU has it in vectors:
// kernels/cpu/logits.cc.)
EVENFLOW_HOST_DEVICE inline float DrawWeight(float logit, float max, float temperature) {
  return std::exp(std::fmax((logit - max) / temperature, -200.0f));
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MATH_SAMPLING_H_
