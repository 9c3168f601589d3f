#include "engine/tokenizer/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "engine/json.h"
#include "engine/tokenizer/added_tokens.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/fields.h"
#include "engine/tokenizer/normalizer.h"
#include "engine/tokenizer/post_processor.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/rwkv_vocabulary.h"
#include "engine/tokenizer/vocabulary.h"
#include "engine/utf8.h"

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace evenflow {

// The walk of a text: added tokens are cut out, the rest is normalized, normalized added tokens are
// cut out, the pre-tokenizer splits what remains into words, BPE encodes each. An RWKV vocabulary
// encodes what is between added tokens by itself.
struct Tokenizer::Parts {
  AddedTokens added;
  std::unique_ptr<const Normalizer> normalizer;
  std::unique_ptr<const PreTokenizer> pre_tokenizer;
  Bpe bpe;
  std::optional<RwkvVocabulary> rwkv;
  Surroundings around;
  Decoder decoder;
  TokenTable tokens;          // model and added tokens, as decoding knows them
  std::vector<bool> special;  // [id]

  const Vocabulary& vocabulary() const { return rwkv ? rwkv->vocabulary() : bpe.vocabulary(); }

  absl::Status Load(const nlohmann::json& json);
  absl::Status LoadRwkv(std::string_view file);
  absl::Status LoadAdded(const nlohmann::json& json);
  absl::Status EncodeStretch(std::string_view text, bool at_start, bool parse_special,
                             Bpe::Scratch* scratch, std::vector<int32_t>* ids) const;
};

namespace {

constexpr const char* kFileNames[] = {"tokenizer.json", "rwkv_vocab_v20230424.txt",
                                      "rwkv_vocab.txt"};

const nlohmann::json& OrNull(const nlohmann::json* value) {
  static const nlohmann::json null;
  return value == nullptr ? null : *value;
}

// Moves the value of `from` to `to`; false with `status` set on an error.
template <typename T>
bool Take(absl::StatusOr<T> from, T* to, absl::Status* status) {
  *status = from.status();
  if (from.ok()) {
    *to = *std::move(from);
  }
  return status->ok();
}

}  // namespace

absl::Status Tokenizer::Parts::LoadAdded(const nlohmann::json& json) {
  absl::Status status;
  if (!Take(AddedTokens::Load(json, vocabulary(), *normalizer), &added, &status)) {
    return status;
  }
  // Decoding knows an added token by its normalized form, also one that the model has.
  const TokenTable& model = vocabulary().tokens();
  absl::flat_hash_map<int32_t, std::string_view> forms;
  for (const AddedToken& token : added.tokens()) {
    forms[token.id] = added.DecodedForm(token);
    if (model.Contains(token.id) && model.Token(token.id) != token.content) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tokenizer.json: added_tokens: \"", token.content.substr(0, 200), "\" has id ", token.id,
          ", which \"", std::string(model.Token(token.id).substr(0, 200)), "\" has already"));
    }
  }
  const int32_t end = std::max(
      model.end(), forms.empty() ? 0 : std::max_element(forms.begin(), forms.end())->first + 1);
  special.resize(static_cast<size_t>(end));
  for (int32_t id = 0; id < end; ++id) {
    const auto form = forms.find(id);
    if (form == forms.end() && !model.Contains(id)) {
      continue;
    }
    const std::string_view token = form == forms.end() ? model.Token(id) : form->second;
    special[static_cast<size_t>(id)] = added.IsSpecialContent(token);
    tokens.Set(id, token);
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Parts::Load(const nlohmann::json& json) {
  Fields fields(json, "top level");
  const nlohmann::json& model = fields.RequiredObject("model");
  if (const std::string version = fields.String("version", "1.0"); version != "1.0") {
    return fields.Fail(
        absl::StrCat("\"version\" is \"", version.substr(0, 200), "\"; \"1.0\" is expected"));
  }
  absl::Status status = fields.status();
  if (!status.ok() || !Take(Bpe::Load(model), &bpe, &status) ||
      !Take(LoadNormalizer(OrNull(fields.Find("normalizer"))), &normalizer, &status) ||
      !Take(LoadPreTokenizer(OrNull(fields.Find("pre_tokenizer"))), &pre_tokenizer, &status)) {
    return status;
  }
  status = LoadAdded(OrNull(fields.Find("added_tokens")));
  if (!status.ok() || !Take(LoadPostProcessor(OrNull(fields.Find("post_processor")), tokens.end()),
                            &around, &status)) {
    return status;
  }
  Take(Decoder::Load(OrNull(fields.Find("decoder")), tokens), &decoder, &status);
  return status;
}

absl::Status Tokenizer::Parts::LoadRwkv(std::string_view file) {
  absl::StatusOr<RwkvVocabulary> parsed = RwkvVocabulary::Parse(file);
  if (!parsed.ok()) {
    return parsed.status();
  }
  rwkv = *std::move(parsed);
  absl::Status status;
  if (!Take(LoadNormalizer({}), &normalizer, &status)) {
    return status;
  }
  status = LoadAdded({{{"content", RwkvVocabulary::kEndOfText},
                       {"id", 0},
                       {"special", true},
                       {"normalized", false},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false}}});
  decoder = Decoder::OfBytes(tokens);
  return status;
}

absl::Status Tokenizer::Parts::EncodeStretch(std::string_view text, bool at_start,
                                             bool parse_special, Bpe::Scratch* scratch,
                                             std::vector<int32_t>* ids) const {
  if (rwkv) {
    rwkv->Encode(text, ids);
    return absl::OkStatus();
  }
  NormalizedText normalized{std::string(text), at_start};
  if (absl::Status status = normalizer->Apply(&normalized); !status.ok()) {
    return status;
  }
  const std::string_view all = normalized.text;
  const auto encode_word = [&](Word word) { return bpe.Encode(word.text, scratch, ids); };
  return added.Visit(
      all, /*normalized=*/true, parse_special,
      [&](size_t start, size_t end, const AddedToken* token) {
        if (token != nullptr) {
          ids->push_back(token->id);
          return absl::OkStatus();
        }
        const Word whole{all.substr(start, end - start), normalized.at_start && start == 0};
        return pre_tokenizer->Split(whole, encode_word);
      });
}

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}

Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view json) {
  auto parsed = ParseJson(json);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", parsed.status().message()));
  }
  auto parts = std::make_unique<Parts>();
  if (absl::Status status = parts->Load(*parsed); !status.ok()) {
    return status;
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromRwkvVocabulary(std::string_view file) {
  auto parts = std::make_unique<Parts>();
  if (absl::Status status = parts->LoadRwkv(file); !status.ok()) {
    return status;
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromDirectory(const std::string& directory) {
  std::error_code error;
  for (const char* const name : kFileNames) {
    const std::filesystem::path path = std::filesystem::path(directory) / name;
    if (std::filesystem::exists(path, error)) {
      return FromFile(path.string());
    }
  }
  return absl::NotFoundError(
      absl::StrCat(directory, " has none of ", absl::StrJoin(kFileNames, ", ")));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromFile(const std::string& path) {
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) {
    return absl::NotFoundError(absl::StrCat("tokenizer file ", path, " cannot be read"));
  }
  if (const size_t limit = JsonLimits().max_bytes; bytes > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", bytes, " bytes; at most ", limit, " are allowed"));
  }
  std::string content(bytes, '\0');
  file.read(content.data(), static_cast<std::streamsize>(bytes));
  content.resize(static_cast<size_t>(file.gcount()));
  auto loaded = absl::EndsWith(path, ".txt") ? FromRwkvVocabulary(content) : FromJson(content);
  if (!loaded.ok()) {
    return absl::Status(loaded.status().code(),
                        absl::StrCat(path, ": ", loaded.status().message()));
  }
  return loaded;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       const EncodeOptions& options) const {
  if (const size_t limit = std::min(options.max_bytes, kMaxEncodeBytes); text.size() > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat("text of ", text.size(), " bytes; at most ", limit, " are allowed"));
  }
  if (const size_t valid = ValidUtf8Prefix(text); valid != text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("text: invalid UTF-8 at byte ", valid));
  }
  std::vector<int32_t> ids;
  if (options.add_special) {
    ids = parts_->around.prefix;
  }
  Bpe::Scratch scratch;
  absl::Status status = parts_->added.Visit(text, /*normalized=*/false, options.parse_special,
                                            [&](size_t start, size_t end, const AddedToken* token) {
                                              if (token != nullptr) {
                                                ids.push_back(token->id);
                                                return absl::OkStatus();
                                              }
                                              return parts_->EncodeStretch(
                                                  text.substr(start, end - start), start == 0,
                                                  options.parse_special, &scratch, &ids);
                                            });
  if (!status.ok()) {
    return status;
  }
  if (options.add_special) {
    ids.insert(ids.end(), parts_->around.suffix.begin(), parts_->around.suffix.end());
  }
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const int32_t> ids,
                                              bool skip_special) const {
  std::vector<int32_t> kept;
  kept.reserve(ids.size());
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is outside 0 to ", vocab_size() - 1));
    }
    if (!skip_special || !IsSpecial(id)) {
      kept.push_back(id);
    }
  }
  return parts_->decoder.DecodeAll(kept);
}

int32_t Tokenizer::vocab_size() const {
  return parts_->tokens.end();
}

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  if (const AddedToken* added = parts_->added.Find(token)) {
    return added->id;
  }
  return parts_->vocabulary().Find(token);
}

std::string_view Tokenizer::IdToToken(int32_t id) const {
  return parts_->tokens.Token(id);
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  return parts_->decoder.Bytes(id);
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && parts_->special[static_cast<size_t>(id)];
}

IncrementalDecoder::IncrementalDecoder(const Tokenizer& tokenizer, bool at_start, bool skip_special)
    : tokenizer_(tokenizer),
      skip_special_(skip_special),
      state_(tokenizer.parts_->decoder.Begin(at_start)) {}

std::string IncrementalDecoder::Push(int32_t id) {
  std::string text;
  if (!skip_special_ || !tokenizer_.IsSpecial(id)) {
    tokenizer_.parts_->decoder.Push(id, &state_, &text);
  }
  return text;
}

std::string IncrementalDecoder::Flush() {
  std::string text;
  tokenizer_.parts_->decoder.Flush(&state_, &text);
  return text;
}

}  // namespace evenflow
