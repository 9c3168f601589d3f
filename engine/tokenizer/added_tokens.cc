#include "engine/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "engine/tokenizer/fields.h"
#include "engine/tokenizer/unicode.h"

#include "absl/strings/str_cat.h"

namespace evenflow {

absl::StatusOr<AddedTokens> AddedTokens::Load(const nlohmann::json& json, const Vocabulary& model,
                                              const Normalizer& normalizer) {
  AddedTokens added;
  added.next_id_ = model.size();
  if (!json.is_null() && !json.is_array()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: added_tokens: is a JSON ",
                                                   json.type_name(), "; an array is expected"));
  }
  // Of several entries with one content the last counts.
  for (const nlohmann::json& entry : json) {
    Fields fields(entry, "added_tokens");
    AddedToken token;
    token.content = fields.RequiredString("content");
    const int64_t id = fields.RequiredInteger("id");
    token.single_word = fields.RequiredBool("single_word");
    token.lstrip = fields.RequiredBool("lstrip");
    token.rstrip = fields.RequiredBool("rstrip");
    token.normalized = fields.RequiredBool("normalized");
    token.special = fields.RequiredBool("special");
    if (!fields.status().ok()) {
      return fields.status();
    }
    if (id < 0 || id >= Vocabulary::kMaxIds) {
      return fields.Fail(absl::StrCat("the token \"", token.content.substr(0, 200), "\" has id ",
                                      id, ", which is outside 0 to ", Vocabulary::kMaxIds - 1));
    }
    token.id = static_cast<int32_t>(id);
    if (absl::Status status = added.Add(std::move(token), model, normalizer); !status.ok()) {
      return status;
    }
  }
  for (size_t i = 0; i < added.tokens_.size(); ++i) {
    const AddedToken& token = added.tokens_[i];
    if (token.normalized) {
      added.normalized_.Add(added.DecodedForm(token), i);
    } else {
      added.raw_.Add(token.content, i);
    }
  }
  return added;
}

// Hugging Face ignores the id in the file: a token of the model keeps its id, a new one gets the
// next free one, counted from the model's number of tokens.
absl::Status AddedTokens::Add(AddedToken token, const Vocabulary& model,
                              const Normalizer& normalizer) {
  if (token.content.empty()) {
    return absl::OkStatus();
  }
  const auto known = by_content_.find(token.content);
  const auto in_model = model.Find(token.content);
  const int32_t id = known != by_content_.end() ? tokens_[known->second].id
                     : in_model                 ? *in_model
                                                : next_id_++;
  if (id != token.id) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.json: added_tokens: \"", token.content.substr(0, 200), "\" has id ",
                     token.id, "; its place in the vocabulary gives it ", id));
  }
  if (token.normalized) {
    NormalizedText form{token.content, true};
    if (absl::Status status = normalizer.Apply(&form); !status.ok()) {
      return status;
    }
    if (form.text != token.content) {
      normalized_forms_[id] = form.text;
    }
  }
  if (token.special) {
    special_contents_.insert(token.content);
  }
  if (known != by_content_.end()) {
    tokens_[known->second] = std::move(token);
  } else {
    by_content_.emplace(token.content, tokens_.size());
    tokens_.push_back(std::move(token));
  }
  return absl::OkStatus();
}

const AddedToken* AddedTokens::Find(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

std::string_view AddedTokens::DecodedForm(const AddedToken& token) const {
  const auto found = normalized_forms_.find(token.id);
  return found == normalized_forms_.end() ? token.content : found->second;
}

bool AddedTokens::IsSpecialContent(std::string_view content) const {
  return special_contents_.contains(std::string(content));
}

absl::Status AddedTokens::Visit(std::string_view text, bool normalized, bool parse_special,
                                Visitor visit) const {
  const StringFinder& finder = normalized ? normalized_ : raw_;
  size_t visited = 0;
  for (auto match = finder.Find(text, 0); match; match = finder.Find(text, match->end)) {
    const AddedToken& token = tokens_[match->value];
    size_t start = match->start;
    size_t end = match->end;
    if (!parse_special && special_contents_.contains(token.content)) {
      continue;
    }
    if (token.single_word && ((start > 0 && IsWord(CharacterBefore(text, start))) ||
                              (end < text.size() && IsWord(CharacterAt(text, end))))) {
      continue;
    }
    if (token.lstrip) {
      start = std::max(TrimWhiteSpace(text, start), visited);
    }
    if (token.rstrip) {
      end = SkipWhiteSpace(text, end);
    }
    if (visited < start) {
      if (absl::Status status = visit(visited, start, nullptr); !status.ok()) {
        return status;
      }
    }
    if (absl::Status status = visit(start, end, &token); !status.ok()) {
      return status;
    }
    visited = end;
  }
  return visited < text.size() ? visit(visited, text.size(), nullptr) : absl::OkStatus();
}

}  // namespace evenflow
