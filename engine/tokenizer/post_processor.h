// The "post_processor" of a tokenizer.json, of which only the tokens that it puts around a text
// matter here. Pure function; thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_POST_PROCESSOR_H_
#define EVENFLOW_ENGINE_TOKENIZER_POST_PROCESSOR_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace evenflow {

struct Surroundings {
  std::vector<int32_t> prefix;  // BOS and the like
  std::vector<int32_t> suffix;  // EOS and the like
};

// TemplateProcessing ("single"), RobertaProcessing, BertProcessing, ByteLevel and Sequence; null
// JSON: nothing. INVALID_ARGUMENT names what is not supported and ids that are not in
// [0, vocab_size).
absl::StatusOr<Surroundings> LoadPostProcessor(const nlohmann::json& json, int32_t vocab_size);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_POST_PROCESSOR_H_
