// `evenflow bench step`: how long a decode step of the engine takes, next to the time that reading
// its bytes takes on this machine.
#ifndef EVENFLOW_SERVER_BENCH_STEP_H_
#define EVENFLOW_SERVER_BENCH_STEP_H_

#include <string>

#include "server/device.h"

#include "absl/status/status.h"

namespace evenflow {

inline constexpr const char* kRandomModels[] = {"retnet-1.3b", "retnet-350m", "gated-deltanet-350m",
                                                "retnet-tiny"};

struct BenchStepFlags {
  std::string directory;
  std::string random;  // a name of kRandomModels; made in `directory`, or in a temporary one
  int rows = 1;
  int steps = 50;
  int prompt_tokens = 0;  // of a prompt whose reading is timed besides
  int step_tokens = 256;  // of such a prompt in one step
  DeviceOptions device;
  DType state_dtype = DType::kF32;
  bool json = false;
};

// Prints the result. With an engine of its own.
absl::Status RunBenchStep(const BenchStepFlags& flags);

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_BENCH_STEP_H_
