// The "normalizer" of a tokenizer.json: a list of rewrites of the whole text. Owned by Tokenizer.
// Immutable; thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_NORMALIZER_H_
#define EVENFLOW_ENGINE_TOKENIZER_NORMALIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace evenflow {

struct NormalizedText {
  std::string text;
  // The first character still comes from the first of the original (Metaspace's "first" asks).
  bool at_start = true;
};

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // REQUIRES: text is valid UTF-8; keeps it so. RESOURCE_EXHAUSTED from regular expressions, and
  // when the text grows over 16 times its size.
  virtual absl::Status Apply(NormalizedText* text) const = 0;
};

// NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, Replace and Sequence; null JSON: nothing is
// changed. The Unicode forms know what Unicode 9 knew, as
// Hugging Face's do; Lowercase knows Unicode 15 (ICU 72). INVALID_ARGUMENT names what is not
// supported.
absl::StatusOr<std::unique_ptr<const Normalizer>> LoadNormalizer(const nlohmann::json& json);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_NORMALIZER_H_
