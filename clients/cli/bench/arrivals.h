// When an open-loop load sends its requests.
#ifndef EVENFLOW_CLIENTS_CLI_BENCH_ARRIVALS_H_
#define EVENFLOW_CLIENTS_CLI_BENCH_ARRIVALS_H_

#include <cstdint>
#include <vector>

namespace evenflow {

struct ArrivalPlan {
  int64_t count = 0;
  double rate = 0;          // requests per second once the ramp is over; 0 or infinite: all at once
  double ramp_seconds = 0;  // the rate grows from 0 to `rate` in a straight line
  uint64_t seed = 0;
};

// Seconds from the start, ascending, of a Poisson process with the plan's rate. Equal plans give
// equal times.
std::vector<double> ArrivalSeconds(const ArrivalPlan& plan);

}  // namespace evenflow

#endif  // EVENFLOW_CLIENTS_CLI_BENCH_ARRIVALS_H_
