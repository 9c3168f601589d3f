// The "pre_tokenizer" of a tokenizer.json: cuts the normalized text into words. Owned by Tokenizer.
// Immutable; thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_PRE_TOKENIZER_H_
#define EVENFLOW_ENGINE_TOKENIZER_PRE_TOKENIZER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace evenflow {

struct Word {
  std::string_view text;  // not empty; lives while the sink runs
  bool at_start;          // begins where the original text begins
};

using WordSink = absl::FunctionRef<absl::Status(Word)>;

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Gives the parts of `word` to `sink` in order. REQUIRES: valid UTF-8; keeps it so. Returns the
  // sink's first error or RESOURCE_EXHAUSTED from a regular expression.
  virtual absl::Status Split(Word word, WordSink sink) const = 0;
};

// Split, ByteLevel, Metaspace, Digits, Whitespace, WhitespaceSplit and Sequence; null JSON: one
// word. INVALID_ARGUMENT names what is not supported.
absl::StatusOr<std::unique_ptr<const PreTokenizer>> LoadPreTokenizer(const nlohmann::json& json);

// The printable character that stands for each byte in byte-level vocabularies (GPT-2).
const std::array<char32_t, 256>& ByteLevelAlphabet();

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_PRE_TOKENIZER_H_
