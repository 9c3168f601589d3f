// `evenflow bench step`: how long a decode step of the engine takes, next to the time that reading
// its bytes takes on this machine.
#ifndef EVENFLOW_SERVER_BENCH_STEP_H_
#define EVENFLOW_SERVER_BENCH_STEP_H_

#include <string>

#include "absl/status/status.h"

namespace evenflow {

struct BenchStepFlags {
  std::string directory;
  std::string random;  // "retnet-350m"; the checkpoint is made in `directory`, or a temporary one
  int rows = 1;
  int steps = 50;
  int threads = 0;
  bool json = false;
};

// Prints the result. Runs on the CPU, with an engine of its own.
absl::Status RunBenchStep(const BenchStepFlags& flags);

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_BENCH_STEP_H_
