#include "engine/tokenizer/vocabulary.h"

#include "engine/utf8.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

std::string Shown(std::string_view token) {
  return absl::Utf8SafeCEscape(ReplaceInvalidUtf8(token.substr(0, 200)));
}

}  // namespace

void TokenTable::Set(int32_t id, std::string_view token) {
  const auto index = static_cast<size_t>(id);
  if (index >= tokens_.size()) {
    tokens_.resize(index + 1);
    used_.resize(index + 1);
  }
  tokens_[index] = token;
  used_[index] = true;
}

absl::Status Vocabulary::Add(std::string_view token, int64_t id) {
  const auto refuse = [&](const std::string& why) {
    return absl::InvalidArgumentError(
        absl::StrCat("token \"", Shown(token), "\" has id ", id, ", ", why));
  };
  if (id < 0 || id >= kMaxIds) {
    return refuse(absl::StrCat("which is outside 0 to ", kMaxIds - 1));
  }
  const auto key = static_cast<int32_t>(id);
  if (tokens_.Contains(key)) {
    return refuse(absl::StrCat("which \"", Shown(tokens_.Token(key)), "\" has already"));
  }
  if (!ids_.emplace(token, key).second) {
    return refuse("and another one besides");
  }
  tokens_.Set(key, token);
  return absl::OkStatus();
}

}  // namespace evenflow
