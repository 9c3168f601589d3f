// What a model is made of and what a session of it costs, as `evenflow inspect` prints it. Pure
// function.
#ifndef EVENFLOW_ENGINE_MODEL_INSPECT_H_
#define EVENFLOW_ENGINE_MODEL_INSPECT_H_

#include <string>

#include "engine/model/model.h"

namespace evenflow {

// One JSON object: name, model_type, parameters, vocab_size, hidden_size, window, rollback,
// state_dtype, state_bytes_per_session, bos_token, eos_tokens, and layers: a list of {memory,
// heads, query_heads, key_dim, value_dim, banks, detail, state_bytes}. Sizes in bytes; `window` as
// used, which may be longer than asked for; `detail` is text for people.
std::string InspectJson(const Model& model);

// The same for people: a few lines.
std::string InspectText(const Model& model);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_INSPECT_H_
