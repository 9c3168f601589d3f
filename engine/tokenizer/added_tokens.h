// The "added_tokens" of a tokenizer.json: strings that are cut out of the text as whole tokens,
// before anything else sees them. Owned by Tokenizer. Immutable after loading; thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_ADDED_TOKENS_H_
#define EVENFLOW_ENGINE_TOKENIZER_ADDED_TOKENS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/normalizer.h"
#include "engine/tokenizer/string_finder.h"
#include "engine/tokenizer/vocabulary.h"

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace evenflow {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // only between characters that are not part of a word
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
  bool normalized = false;   // sought in the normalized text, in its own normalized form
  bool special = false;
};

class AddedTokens {
 public:
  // Reads the array and gives the ids that Hugging Face gives. INVALID_ARGUMENT when the file
  // states others, or when an id is taken.
  static absl::StatusOr<AddedTokens> Load(const nlohmann::json& json, const Vocabulary& model,
                                          const Normalizer& normalizer);

  // A stretch [start, end) of text between tokens (`token` null), or a token.
  using Visitor =
      absl::FunctionRef<absl::Status(size_t start, size_t end, const AddedToken* token)>;

  // Visits `text` in order, looking for the tokens whose flag `normalized` is the given one.
  // Special tokens are left in the text unless `parse_special`. REQUIRES: valid UTF-8.
  absl::Status Visit(std::string_view text, bool normalized, bool parse_special,
                     Visitor visit) const;

  const AddedToken* Find(std::string_view content) const;

  // In the order of the file, each content once.
  const std::vector<AddedToken>& tokens() const { return tokens_; }

  // The form by which decoding knows the token: normalized where `normalized` is set.
  std::string_view DecodedForm(const AddedToken& token) const;

  bool IsSpecialContent(std::string_view content) const;

 private:
  absl::Status Add(AddedToken token, const Vocabulary& model, const Normalizer& normalizer);

  std::vector<AddedToken> tokens_;
  absl::flat_hash_map<std::string, size_t> by_content_;         // index in tokens_
  absl::flat_hash_map<int32_t, std::string> normalized_forms_;  // by id, where it differs
  absl::flat_hash_set<std::string> special_contents_;
  int32_t next_id_ = 0;
  StringFinder raw_;
  StringFinder normalized_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_ADDED_TOKENS_H_
