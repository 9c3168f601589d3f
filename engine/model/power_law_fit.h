// The sum of exponentials that stands for VORT's power laws (kernels/math/power_law.h), chosen when
// a model is loaded: nodes that all exponents share, non-negative coefficients for each. Pure
// function, any thread; a fraction of a second.
#ifndef EVENFLOW_ENGINE_MODEL_POWER_LAW_FIT_H_
#define EVENFLOW_ENGINE_MODEL_POWER_LAW_FIT_H_

#include <vector>

namespace evenflow {

struct PowerLawTarget {
  double alpha_min = 0.05;  // exponents are in [alpha_min, 1]
  double horizon = 1e6;     // tokens
  double epsilon = 1e-3;    // error wished for
  int first_lag = 1;        // shorter lags are not needed

  bool operator==(const PowerLawTarget&) const = default;
};

struct PowerLawFit {
  std::vector<float> rates;         // [node], ascending
  std::vector<float> coefficients;  // [PowerLaw::kPoints, node]
  // The largest |w_k(alpha) - sum| over all alpha and lags k from the first to the horizon.
  double error = 0;
};

// The fewest nodes that reach epsilon, or as many as there may be.
PowerLawFit FitPowerLaw(const PowerLawTarget& target);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_POWER_LAW_FIT_H_
