// What a step reads and leaves, on every device. Plain data.
#ifndef EVENFLOW_KERNELS_STEP_H_
#define EVENFLOW_KERNELS_STEP_H_

#include <cstdint>
#include <vector>

#include "kernels/sampling.h"

namespace evenflow {

// One session's part of a step.
struct Row {
  int32_t slot = 0;
  int32_t first_token = 0;  // its first token's index in the step
  int32_t tokens = 0;       // consecutive tokens, at least 1
  int64_t position =
      0;  // absolute position of the first one; the state holds exactly the tokens before it
};

// In place of a token's id: the token that the step launched before this one draws at that index of
// its samples, whatever it will be. If it draws none, any token of the vocabulary.
constexpr int32_t DrawnAt(int sample) {
  return -1 - sample;
}

// What a step reads. Copied by BeginStep.
struct StepInput {
  const Row* rows = nullptr;
  int row_count = 0;
  const int32_t* tokens = nullptr;  // [token], ids or, with a pipeline_depth() of 1, DrawnAt
  int token_count = 0;
  const int32_t* logit_tokens =
      nullptr;  // [logit], ascending indices of the tokens whose logits are wanted
  const SamplingRow* sampling = nullptr;  // [logit]
  int logit_count = 0;
};

// Norms and bad values of one layer's committed state, as of the row's last commit in a step. The
// norms are those of the finite elements.
struct StateHealth {
  bool committed = false;  // false: nothing was committed in this step, the rest is unset
  float norm = 0;          // Frobenius, over all heads
  float max_abs = 0;
  int32_t non_finite = 0;  // elements
};

// What a step leaves. Valid until the next Collect.
struct StepOutput {
  std::vector<SampledToken> sampled;  // [logit]
  std::vector<StateHealth> health;    // [row, memory layer]; a preconditioner counts as a layer
  int memory_layers = 0;
};

// A device may fill a step up with unused tokens and logits, to a multiple of so many: activations
// have room for them.
inline constexpr int kStepPadding = 32;

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_STEP_H_
