// The "decoder" of a tokenizer.json: from token ids back to text. Hugging Face's chains of decoders
// rewrite the strings of a whole sequence; here a chain is reduced, when it is loaded, to bytes for
// every token and a few rules, so that text can stream. Owned by Tokenizer. Immutable; thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_DECODER_H_
#define EVENFLOW_ENGINE_TOKENIZER_DECODER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/vocabulary.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "nlohmann/json_fwd.hpp"

namespace evenflow {

class Fields;

class Decoder {
 public:
  // Where one stream of text stands. Made by Begin.
  struct State {
    std::string pending;    // bytes of a character that is not complete, at most 3
    size_t strip_left = 0;  // characters that may still be stripped from the begin of the text
    bool is_first = true;   // no token was decoded yet
  };

  // `tokens` has every token as decoding knows it, and is only read during the call. Null JSON:
  // tokens are joined with spaces, as Hugging Face does. INVALID_ARGUMENT names what is not
  // supported.
  static absl::StatusOr<Decoder> Load(const nlohmann::json& json, const TokenTable& tokens);

  // Tokens are bytes, parts of one byte string.
  static Decoder OfBytes(const TokenTable& tokens);

  // The bytes that the token adds to running text, apart from the rules for the begin of a text.
  // "" for an id that is not used.
  std::string_view Bytes(int32_t id) const;

  // The text of the whole sequence. Unused ids add nothing.
  std::string DecodeAll(absl::Span<const int32_t> ids) const;

  // `at_start`: the rules for the begin of a text apply (a Metaspace tokenizer drops a space).
  State Begin(bool at_start) const;
  // Appends the characters that are complete now.
  void Push(int32_t id, State* state, std::string* text) const;
  // Appends U+FFFD for what is pending.
  void Flush(State* state, std::string* text) const;

 private:
  // How bytes become characters.
  enum class Form {
    kText,          // every token is whole characters
    kByteLevel,     // tokens are parts of one byte string; U+FFFD for an ill-formed subpart
    kByteFallback,  // tokens <0x00> to <0xFF> are single bytes; U+FFFD for each ill-formed byte
  };

  // A rewrite of one token's string; `first`: the token is the first of the text.
  using Rewrite = std::function<absl::StatusOr<std::string>(std::string token, bool first)>;

  // What all tokens become, one after the other; token `id` is [begin[id], begin[id + 1]).
  struct Table {
    std::string bytes;
    std::vector<size_t> begin{0};

    std::string_view At(int32_t id) const {
      const auto i = static_cast<size_t>(id);
      return std::string_view(bytes).substr(begin[i], begin[i + 1] - begin[i]);
    }
  };

  absl::Status LoadStep(const nlohmann::json& json);
  absl::Status LoadByType(const std::string& type, Fields* fields);
  absl::Status LoadReplace(Fields* fields);
  absl::Status LoadMetaspace(Fields* fields);
  absl::Status LoadStrip(Fields* fields);
  absl::StatusOr<std::string> RewriteToken(std::string_view token, bool first) const;
  absl::Status FillTables(const TokenTable& tokens);
  // Emits the characters of `state->pending` that are certain.
  void Settle(State* state, std::string* text) const;
  void Emit(std::string_view piece, State* state, std::string* text) const;

  std::vector<Rewrite> rewrites_;  // only while loading
  Form form_ = Form::kText;
  bool fused_ = false;  // the chain has joined the tokens; only Strip may follow
  bool joins_with_space_ = false;
  bool has_first_ = false;  // the first token has a form of its own
  std::string strip_;       // character stripped from the begin of the text
  size_t strip_count_ = 0;  // how many at most
  Table table_;
  Table first_table_;          // empty unless has_first_
  std::vector<bool> is_byte_;  // [id]; kByteFallback
  std::vector<bool> is_used_;  // [id]
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_DECODER_H_
