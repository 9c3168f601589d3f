// Text to token ids and back, read from a Hugging Face tokenizer.json with a byte-pair encoding or
// from the vocabulary file of RWKV's World models.
// Owned by the model that it came with; immutable after loading, every method is thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_TOKENIZER_H_
#define EVENFLOW_ENGINE_TOKENIZER_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/decoder.h"

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace evenflow {

struct EncodeOptions {
  // Put the tokens of the post-processor (BOS, EOS) around the text.
  bool add_special = true;
  // Recognise special added tokens that are written in the text. Switch off for text that must not
  // control the model.
  bool parse_special = true;
  // Longest text accepted, in bytes; at most kMaxEncodeBytes.
  size_t max_bytes = size_t{16} << 20;
};

inline constexpr size_t kMaxEncodeBytes = size_t{64} << 20;

class Tokenizer {
 public:
  // From the first of tokenizer.json, rwkv_vocab_v20230424.txt and rwkv_vocab.txt that the
  // directory has. NOT_FOUND names all when it has none.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromDirectory(const std::string& directory);

  // NOT_FOUND when the file cannot be read; else as FromJson or, for a name that ends in .txt,
  // FromRwkvVocabulary, with the path in the message.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromFile(const std::string& path);

  // INVALID_ARGUMENT for what is not a tokenizer.json; a component or option that is not supported
  // is named, with those that are. Truncation and padding settings are ignored.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(std::string_view json);

  // See RwkvVocabulary::Parse. Texts are encoded as RWKV's own tokenizer does; the token 0, the end
  // of a text, is a special one, and none is put around texts.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromRwkvVocabulary(std::string_view file);

  // Equal, token for token, to Hugging Face's encode(text). INVALID_ARGUMENT for invalid UTF-8 (the
  // message names the byte offset) and for text over options.max_bytes; RESOURCE_EXHAUSTED when a
  // pattern of the tokenizer exceeds its limits.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options = {}) const;

  // Equal to Hugging Face's decode(ids, skip_special_tokens). Always valid UTF-8. INVALID_ARGUMENT
  // for an id outside [0, vocab_size()); ids inside that no token has add nothing.
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, bool skip_special) const;

  // Largest id + 1.
  int32_t vocab_size() const;

  std::optional<int32_t> TokenToId(std::string_view token) const;

  // The token as the file writes it ("\u0120the", "<0x0A>"), an added token in its normalized form;
  // of an RWKV vocabulary, its bytes. "" when unused. Lives as long as the tokenizer.
  std::string_view IdToToken(int32_t id) const;

  // What the token adds to running text, possibly parts of characters; "" when unused. O(1). Lives
  // as long as the tokenizer.
  std::string_view TokenBytes(int32_t id) const;

  // The tokens that `skip_special` drops.
  bool IsSpecial(int32_t id) const;

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

 private:
  friend class IncrementalDecoder;
  struct Parts;

  explicit Tokenizer(std::unique_ptr<const Parts> parts);

  const std::unique_ptr<const Parts> parts_;
};

// Decodes one stream token by token. The pieces joined are Decode of all ids, but for two things: a
// stream that does not begin a text keeps a leading space that Decode drops (SentencePiece
// styles), and in a run of byte tokens that is not valid UTF-8 as a whole, the characters that are
// valid stay (Decode, as Hugging Face, gives U+FFFD for every byte of the run).
// Not thread-safe; the tokenizer must outlive it.
class IncrementalDecoder {
 public:
  // `at_start`: the stream begins a text; false when it continues one (a prompt).
  IncrementalDecoder(const Tokenizer& tokenizer, bool at_start, bool skip_special);

  // The characters that are complete now: never a part of one. A byte sequence that cannot become a
  // character gives U+FFFD as soon as that is certain. Ids without a token give "". Amortised
  // O(length of the token).
  std::string Push(int32_t id);

  // What remains: U+FFFD for an incomplete character. The next Push continues the same text.
  std::string Flush();

  // The newest token's last character is not complete.
  bool pending() const { return !state_.pending.empty(); }

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_;
  Decoder::State state_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_TOKENIZER_H_
