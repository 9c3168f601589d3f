#include "engine/tokenizer/decoder.h"

#include <optional>
#include <utility>

#include "engine/tokenizer/fields.h"
#include "engine/tokenizer/pattern.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/regex.h"
#include "engine/utf8.h"

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "nlohmann/json.hpp"

namespace evenflow {
namespace {

constexpr std::string_view kSupported =
    "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, Sequence";

bool IsOneCharacter(std::string_view text) {
  return !text.empty() && Utf8Length(text, 0) == text.size();
}

std::string RemoveAround(std::string_view token, std::string_view character, size_t at_begin,
                         size_t at_end) {
  for (; at_begin > 0 && token.substr(0, character.size()) == character; --at_begin) {
    token.remove_prefix(character.size());
  }
  for (; at_end > 0 && token.size() >= character.size() &&
         token.substr(token.size() - character.size()) == character;
       --at_end) {
    token.remove_suffix(character.size());
  }
  return std::string(token);
}

// The byte string that a byte-level token stands for; one with a character outside the alphabet
// stands for itself.
std::string FromByteLevel(std::string_view token) {
  static const auto bytes = [] {
    absl::flat_hash_map<char32_t, char> table;
    for (size_t byte = 0; byte < 256; ++byte) {
      table[ByteLevelAlphabet()[byte]] = static_cast<char>(byte);
    }
    return table;
  }();
  std::string out;
  for (size_t at = 0; at < token.size(); at += Utf8Length(token, at)) {
    const auto found = bytes.find(ScanUtf8(token.substr(at)).code_point);
    if (found == bytes.end()) {
      return std::string(token);
    }
    out += found->second;
  }
  return out;
}

// The byte of a token "<0x41>". As Rust reads a number, "<0x+1>" is one too.
std::optional<char> FromByteToken(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') {
    return std::nullopt;
  }
  int value = 0;
  for (const char c : token.substr(token[3] == '+' ? 4 : 3, token[3] == '+' ? 1 : 2)) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) {
      return std::nullopt;
    }
    value = value * 16 + (absl::ascii_isdigit(static_cast<unsigned char>(c))
                              ? c - '0'
                              : absl::ascii_tolower(static_cast<unsigned char>(c)) - 'a' + 10);
  }
  return static_cast<char>(value);
}

absl::StatusOr<std::string> ReplaceAll(const Regex& pattern, std::string_view content,
                                       std::string_view token) {
  std::string out;
  absl::Status status = pattern.Visit(token, [&](size_t start, size_t end, bool is_match) {
    out += is_match ? content : token.substr(start, end - start);
    return absl::OkStatus();
  });
  if (!status.ok()) {
    return status;
  }
  return out;
}

}  // namespace

absl::StatusOr<Decoder> Decoder::Load(const nlohmann::json& json, const TokenTable& tokens) {
  Decoder decoder;
  decoder.joins_with_space_ = json.is_null();
  if (!json.is_null()) {
    if (absl::Status status = decoder.LoadStep(json); !status.ok()) {
      return status;
    }
  }
  if (absl::Status status = decoder.FillTables(tokens); !status.ok()) {
    return status;
  }
  decoder.rewrites_.clear();
  return decoder;
}

absl::Status Decoder::LoadStep(const nlohmann::json& json) {
  Fields fields(json, "decoder");
  const std::string type = fields.Type();
  if (!fields.status().ok()) {
    return fields.status();
  }
  if (type == "Sequence") {
    for (const nlohmann::json& step : fields.RequiredArray("decoders")) {
      if (absl::Status status = LoadStep(step); !status.ok()) {
        return status;
      }
    }
    return fields.status();
  }
  const bool after_bytes = form_ == Form::kByteFallback && !fused_;
  if ((fused_ && type != "Strip" && type != "Fuse") || (after_bytes && type != "Fuse")) {
    return fields.Fail(fused_ ? "is not supported here; behind ByteLevel or Fuse only Strip is"
                              : "is not supported here; behind ByteFallback only Fuse is");
  }
  absl::Status status = LoadByType(type, &fields);
  return fields.status().ok() ? status : fields.status();
}

absl::Status Decoder::LoadByType(const std::string& type, Fields* fields) {
  if (type == "ByteLevel") {
    form_ = Form::kByteLevel;
    fused_ = true;
  } else if (type == "ByteFallback") {
    form_ = Form::kByteFallback;
  } else if (type == "Fuse") {
    fused_ = true;
  } else if (type == "Replace") {
    return LoadReplace(fields);
  } else if (type == "Metaspace") {
    return LoadMetaspace(fields);
  } else if (type == "Strip") {
    return LoadStrip(fields);
  } else {
    return fields->Unsupported(type, kSupported);
  }
  return absl::OkStatus();
}

absl::Status Decoder::LoadReplace(Fields* fields) {
  auto pattern = LoadPattern(fields);
  if (!pattern.ok()) {
    return pattern.status();
  }
  std::shared_ptr<const Regex> regex = *std::move(pattern);
  rewrites_.push_back(
      [regex, content = fields->RequiredString("content")](const std::string& token, bool) {
        return ReplaceAll(*regex, content, token);
      });
  return absl::OkStatus();
}

absl::Status Decoder::LoadMetaspace(Fields* fields) {
  const std::string replacement = fields->RequiredString("replacement");
  if (!IsOneCharacter(replacement)) {
    return fields->Fail("\"replacement\" must be one character");
  }
  const bool never = fields->String("prepend_scheme", "always") == "never" ||
                     !fields->Bool("add_prefix_space", true);
  auto literal = Regex::Literal(replacement);
  if (!literal.ok()) {
    return literal.status();
  }
  std::shared_ptr<const Regex> regex = *std::move(literal);
  rewrites_.push_back([regex, never](const std::string& token, bool first) {
    return ReplaceAll(*regex, first && !never ? "" : " ", token);
  });
  has_first_ = has_first_ || !never;
  return absl::OkStatus();
}

absl::Status Decoder::LoadStrip(Fields* fields) {
  const std::string content = fields->RequiredString("content");
  const int64_t start = fields->RequiredInteger("start");
  const int64_t stop = fields->RequiredInteger("stop");
  if (!IsOneCharacter(content) || start < 0 || stop < 0) {
    return fields->Fail("needs \"content\" of one character, \"start\" and \"stop\" of at least 0");
  }
  if (!fused_) {
    rewrites_.push_back([=](const std::string& token, bool) {
      return RemoveAround(token, content, static_cast<size_t>(start), static_cast<size_t>(stop));
    });
    return absl::OkStatus();
  }
  if (stop != 0 || strip_count_ != 0) {
    return fields->Fail("on the whole text must have \"stop\" 0 and stand once");
  }
  strip_ = content;
  strip_count_ = static_cast<size_t>(start);
  return absl::OkStatus();
}

absl::StatusOr<std::string> Decoder::RewriteToken(std::string_view token, bool first) const {
  std::string text(token);
  for (const Rewrite& rewrite : rewrites_) {
    auto rewritten = rewrite(text, first);
    if (!rewritten.ok()) {
      return rewritten.status();
    }
    text = *std::move(rewritten);
  }
  return text;
}

absl::Status Decoder::FillTables(const TokenTable& tokens) {
  const auto size = static_cast<size_t>(tokens.end());
  is_used_.resize(size);
  is_byte_.resize(size);
  for (int32_t id = 0; id < tokens.end(); ++id) {
    is_used_[static_cast<size_t>(id)] = tokens.Contains(id);
    for (const bool first : {false, true}) {
      if (first && !has_first_) {
        continue;
      }
      auto text = RewriteToken(tokens.Token(id), first);
      if (!text.ok()) {
        return text.status();
      }
      if (form_ == Form::kByteLevel) {
        text = FromByteLevel(*text);
      } else if (form_ == Form::kByteFallback) {
        if (const auto byte = FromByteToken(*text)) {
          is_byte_[static_cast<size_t>(id)] = true;
          text = std::string(1, *byte);
        }
      }
      Table& table = first ? first_table_ : table_;
      table.bytes += *text;
      table.begin.push_back(table.bytes.size());
    }
  }
  return absl::OkStatus();
}

Decoder Decoder::OfBytes(const TokenTable& tokens) {
  Decoder decoder;
  decoder.form_ = Form::kByteLevel;
  decoder.is_byte_.resize(static_cast<size_t>(tokens.end()));
  for (int32_t id = 0; id < tokens.end(); ++id) {
    decoder.is_used_.push_back(tokens.Contains(id));
    decoder.table_.bytes += tokens.Token(id);
    decoder.table_.begin.push_back(decoder.table_.bytes.size());
  }
  return decoder;
}

std::string_view Decoder::Bytes(int32_t id) const {
  return id < 0 || static_cast<size_t>(id) >= is_used_.size() ? std::string_view() : table_.At(id);
}

Decoder::State Decoder::Begin(bool at_start) const {
  return {"", at_start ? strip_count_ : 0, at_start};
}

void Decoder::Emit(std::string_view piece, State* state, std::string* text) const {
  while (state->strip_left > 0 && !piece.empty()) {
    if (piece.substr(0, strip_.size()) != strip_) {
      state->strip_left = 0;
      break;
    }
    piece.remove_prefix(strip_.size());
    --state->strip_left;
  }
  *text += piece;
}

void Decoder::Settle(State* state, std::string* text) const {
  std::string_view rest = state->pending;
  while (!rest.empty()) {
    const Utf8Scan scan = ScanUtf8(rest);
    if (scan.kind == Utf8Scan::Kind::kIncomplete) {
      break;
    }
    if (scan.kind == Utf8Scan::Kind::kValid) {
      Emit(rest.substr(0, scan.length), state, text);
    } else {
      const size_t marks = form_ == Form::kByteFallback ? scan.length : 1;
      for (size_t i = 0; i < marks; ++i) {
        Emit(kReplacementCharacter, state, text);
      }
    }
    rest.remove_prefix(scan.length);
  }
  state->pending.erase(0, state->pending.size() - rest.size());
}

void Decoder::Push(int32_t id, State* state, std::string* text) const {
  if (id < 0 || static_cast<size_t>(id) >= is_used_.size() || !is_used_[static_cast<size_t>(id)]) {
    return;
  }
  const Table& table = state->is_first && has_first_ ? first_table_ : table_;
  if (joins_with_space_ && !state->is_first) {
    Emit(" ", state, text);
  }
  state->is_first = false;
  if (form_ == Form::kByteLevel || is_byte_[static_cast<size_t>(id)]) {
    state->pending += table.At(id);
    Settle(state, text);
  } else {
    Flush(state, text);
    Emit(table.At(id), state, text);
  }
}

void Decoder::Flush(State* state, std::string* text) const {
  if (state->pending.empty()) {
    return;
  }
  const size_t marks = form_ == Form::kByteFallback ? state->pending.size() : 1;
  for (size_t i = 0; i < marks; ++i) {
    Emit(kReplacementCharacter, state, text);
  }
  state->pending.clear();
}

// As Hugging Face does, a run of byte tokens that is not valid as a whole becomes one U+FFFD for
// each byte; a stream cannot wait for that, and keeps the characters that were valid.
std::string Decoder::DecodeAll(absl::Span<const int32_t> ids) const {
  State state = Begin(true);
  std::string text;
  for (size_t i = 0; i < ids.size();) {
    std::string run;
    for (; i < ids.size() && form_ == Form::kByteFallback && !Bytes(ids[i]).empty() &&
           is_byte_[static_cast<size_t>(ids[i])];
         ++i) {
      run += Bytes(ids[i]);
    }
    if (run.empty()) {
      Push(ids[i++], &state, &text);
      continue;
    }
    state.is_first = false;
    if (ValidUtf8Prefix(run) == run.size()) {
      Emit(run, &state, &text);
      continue;
    }
    for (size_t mark = 0; mark < run.size(); ++mark) {
      Emit(kReplacementCharacter, &state, &text);
    }
  }
  Flush(&state, &text);
  return text;
}

}  // namespace evenflow
