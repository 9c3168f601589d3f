// The vocabulary file of RWKV's World models and how it splits text: greedily, each token being the
// longest that the rest of the text begins with. Owned by Tokenizer. Immutable; thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_RWKV_VOCABULARY_H_
#define EVENFLOW_ENGINE_TOKENIZER_RWKV_VOCABULARY_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/tokenizer/string_finder.h"
#include "engine/tokenizer/vocabulary.h"

#include "absl/status/statusor.h"

namespace evenflow {

class RwkvVocabulary {
 public:
  // The token 0, which is in no file: it begins and ends texts.
  static constexpr std::string_view kEndOfText = "<|rwkv_tokenizer_end_of_text|>";
  static constexpr size_t kMaxTokenBytes = 1024;

  // Lines "ID LITERAL LENGTH": an id from 1, the token as a string or bytes literal of Python, the
  // bytes it has (strings in UTF-8). Ids and tokens are unique, ids may have gaps, each of the 256
  // bytes is a token. INVALID_ARGUMENT names the line.
  static absl::StatusOr<RwkvVocabulary> Parse(std::string_view file);

  // Appends the ids of any bytes; kEndOfText is like any other text here.
  void Encode(std::string_view bytes, std::vector<int32_t>* ids) const;

  // Tokens are bytes, parts of characters among them.
  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  Vocabulary vocabulary_;
  StringFinder finder_;  // its values are ids
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_RWKV_VOCABULARY_H_
