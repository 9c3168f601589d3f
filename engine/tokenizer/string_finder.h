// Many strings, sought in a text at once. Filled while loading, then constant: thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_STRING_FINDER_H_
#define EVENFLOW_ENGINE_TOKENIZER_STRING_FINDER_H_

#include <bitset>
#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace evenflow {

// Finds the leftmost longest of many strings. O(text length * longest string).
class StringFinder {
 public:
  void Add(std::string_view text, size_t value);

  struct Match {
    size_t start;
    size_t end;
    size_t value;
  };

  // The first match that starts at or after `from`.
  std::optional<Match> Find(std::string_view text, size_t from) const;

 private:
  static uint64_t Edge(uint32_t node, char byte);

  absl::flat_hash_map<uint64_t, uint32_t> edges_;  // of a trie; node 0 is its root
  absl::flat_hash_map<uint32_t, size_t> values_;   // by the node where a string ends
  std::bitset<256> first_bytes_;
  uint32_t nodes_ = 1;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_STRING_FINDER_H_
