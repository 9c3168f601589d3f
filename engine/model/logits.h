// Logits of a list of tokens, offline: what `evenflow logits` prints. The caller owns model and
// backend and lends both for the call; one thread.
#ifndef EVENFLOW_ENGINE_MODEL_LOGITS_H_
#define EVENFLOW_ENGINE_MODEL_LOGITS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/model.h"
#include "kernels/backend.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace evenflow {

// Reads the tokens into one new session, in steps cut at multiples of `chunk` tokens. Returns
// [tokens, vocab]. INVALID_ARGUMENT: no tokens, a token outside the vocabulary, a chunk outside [1,
// max_step_tokens and max_step_logits of the model]. RESOURCE_EXHAUSTED.
absl::StatusOr<std::vector<float>> ComputeLogits(Model& model, Backend& backend,
                                                 const std::vector<int32_t>& tokens, int chunk);

// Writes them as tensor "logits" [tokens, vocab] F32 of a safetensors file.
absl::Status WriteLogits(const std::string& path, const std::vector<float>& logits, int vocab_size);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_LOGITS_H_
