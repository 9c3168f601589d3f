// Token strings and ids. Filled while loading, then constant: owned by Tokenizer, thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_VOCABULARY_H_
#define EVENFLOW_ENGINE_TOKENIZER_VOCABULARY_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"

namespace evenflow {

// The strings of a set of ids.
class TokenTable {
 public:
  // REQUIRES: 0 <= id < Vocabulary::kMaxIds.
  void Set(int32_t id, std::string_view token);

  // "" for an id that is not used.
  std::string_view Token(int32_t id) const {
    return Contains(id) ? std::string_view(tokens_[static_cast<size_t>(id)]) : std::string_view();
  }

  bool Contains(int32_t id) const {
    return id >= 0 && id < end() && used_[static_cast<size_t>(id)];
  }

  // Largest id + 1.
  int32_t end() const { return static_cast<int32_t>(tokens_.size()); }

 private:
  std::vector<std::string> tokens_;  // [id]
  std::vector<bool> used_;           // [id]; a token may be the empty string
};

// Tokens and ids, one to one.
class Vocabulary {
 public:
  static constexpr int64_t kMaxIds = int64_t{1} << 22;  // 16 times the largest in use

  // INVALID_ARGUMENT for an id outside [0, kMaxIds) and for an id or a token that is taken; the
  // message names both.
  absl::Status Add(std::string_view token, int64_t id);

  std::optional<int32_t> Find(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional<int32_t>(found->second);
  }

  const TokenTable& tokens() const { return tokens_; }

  // Number of tokens.
  int32_t size() const { return static_cast<int32_t>(ids_.size()); }

 private:
  struct Hash {
    using is_transparent = void;

    size_t operator()(std::string_view token) const { return std::hash<std::string_view>()(token); }
  };

  TokenTable tokens_;
  absl::flat_hash_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_VOCABULARY_H_
