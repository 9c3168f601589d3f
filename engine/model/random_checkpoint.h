// Random checkpoints of any family, for tests and benchmarks. Free functions without state.
#ifndef EVENFLOW_ENGINE_MODEL_RANDOM_CHECKPOINT_H_
#define EVENFLOW_ENGINE_MODEL_RANDOM_CHECKPOINT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace evenflow {

struct RandomModel {
  std::string model_type = "retnet";
  int hidden_size = 1024;
  int layers = 24;
  int heads = 4;
  int vocab_size = 32000;
};

// A config.json of that size, all else as the family's defaults. The defaults above make a RetNet
// of 380 million parameters.
std::string RandomConfig(const RandomModel& model);

// Writes config.json with this text, and model.safetensors in BF16 with every tensor that such a
// model needs, each random and scaled so that the memories move the logits. `seed` decides the
// numbers. The directory is created if need be.
absl::Status WriteRandomCheckpoint(const std::string& directory, const std::string& config,
                                   uint64_t seed);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_RANDOM_CHECKPOINT_H_
