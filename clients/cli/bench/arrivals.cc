#include "clients/cli/bench/arrivals.h"

#include <cmath>
#include <random>

namespace evenflow {

std::vector<double> ArrivalSeconds(const ArrivalPlan& plan) {
  std::vector<double> times(static_cast<size_t>(plan.count), 0.0);
  if (plan.rate <= 0 || std::isinf(plan.rate)) {
    return times;
  }
  // Arrivals of a unit-rate process, mapped through the inverse of the expected number of arrivals
  // by time t: rate t^2 / (2 ramp) within the ramp, rate (t - ramp / 2) after it.
  std::mt19937_64 random(plan.seed);
  std::exponential_distribution<double> gap(1.0);
  const double in_ramp = plan.rate * plan.ramp_seconds / 2;
  double expected = 0;
  for (double& time : times) {
    expected += gap(random);
    time = expected < in_ramp ? std::sqrt(2 * plan.ramp_seconds * expected / plan.rate)
                              : expected / plan.rate + plan.ramp_seconds / 2;
  }
  return times;
}

}  // namespace evenflow
