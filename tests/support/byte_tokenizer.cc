#include "tests/support/byte_tokenizer.h"

#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/utf8.h"

#include "nlohmann/json.hpp"

namespace evenflow {

const std::vector<std::string>& MergedTokens() {
  static const auto* const kTokens =
      new std::vector<std::string>{"ab", "cd", "ef", "gh", "abcd", "xy", "yz", "th", "the"};
  return *kTokens;
}

std::string ByteTokenizerJson() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) {
    std::string character;
    AppendUtf8(ByteLevelAlphabet()[static_cast<size_t>(byte)], &character);
    vocab[character] = byte;
  }
  vocab["</s>"] = kTokenEos;
  int32_t id = kFirstMergedToken;
  for (const std::string& token : MergedTokens()) {
    vocab[token] = id++;
  }
  return nlohmann::json(
             {
                 {"version", "1.0"},
                 {"added_tokens",
                  {{{"id", kTokenEos},
                    {"content", "</s>"},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false},
                    {"special", true}}}},
                 {"normalizer", nullptr},
                 {"pre_tokenizer",
                  {{"type", "ByteLevel"},
                   {"add_prefix_space", false},
                   {"trim_offsets", true},
                   {"use_regex", true}}},
                 {"post_processor", nullptr},
                 {"decoder",
                  {{"type", "ByteLevel"},
                   {"add_prefix_space", false},
                   {"trim_offsets", true},
                   {"use_regex", true}}},
                 {"model",
                  {{"type", "BPE"},
                   {"vocab", vocab},
                   {"merges", {"a b", "c d", "e f", "g h", "ab cd", "x y", "y z", "t h", "th e"}}}},
             })
      .dump();
}

}  // namespace evenflow
