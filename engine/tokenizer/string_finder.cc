#include "engine/tokenizer/string_finder.h"

namespace evenflow {

uint64_t StringFinder::Edge(uint32_t node, char byte) {
  return uint64_t{node} << 8 | static_cast<uint8_t>(byte);
}

void StringFinder::Add(std::string_view text, size_t value) {
  if (text.empty()) {
    return;
  }
  first_bytes_.set(static_cast<uint8_t>(text[0]));
  uint32_t node = 0;
  for (const char byte : text) {
    const auto [edge, is_new] = edges_.emplace(Edge(node, byte), nodes_);
    nodes_ += is_new ? 1 : 0;
    node = edge->second;
  }
  values_[node] = value;
}

std::optional<StringFinder::Match> StringFinder::Find(std::string_view text, size_t from) const {
  for (size_t start = from; start < text.size(); ++start) {
    if (!first_bytes_[static_cast<uint8_t>(text[start])]) {
      continue;
    }
    std::optional<Match> longest;
    uint32_t node = 0;
    for (size_t at = start; at < text.size(); ++at) {
      const auto edge = edges_.find(Edge(node, text[at]));
      if (edge == edges_.end()) {
        break;
      }
      node = edge->second;
      if (const auto value = values_.find(node); value != values_.end()) {
        longest = Match{start, at + 1, value->second};
      }
    }
    if (longest) {
      return longest;
    }
  }
  return std::nullopt;
}

}  // namespace evenflow
