#include "engine/tokenizer/pre_tokenizer.h"

#include <utility>
#include <vector>

#include "engine/tokenizer/fields.h"
#include "engine/tokenizer/pattern.h"
#include "engine/tokenizer/regex.h"
#include "engine/tokenizer/unicode.h"
#include "engine/utf8.h"

#include "absl/strings/match.h"

namespace evenflow {
namespace {

constexpr std::string_view kSupported =
    "Split, ByteLevel, Metaspace, Digits, Whitespace, WhitespaceSplit, Sequence";
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

using PreTokenizerPtr = std::unique_ptr<const PreTokenizer>;

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Joins stretches (matches and what lies between) by a behavior and emits them as words.
class Joiner {
 public:
  Joiner(Behavior behavior, Word word, WordSink sink)
      : behavior_(behavior), word_(word), sink_(sink) {}

  absl::Status Add(size_t start, size_t end, bool is_match) {
    const bool joined = has_open_ && Joins(is_match);
    previous_match_ = is_match;
    if (joined) {
      end_ = end;
      return absl::OkStatus();
    }
    absl::Status status = Finish();
    start_ = start;
    end_ = end;
    has_open_ = !is_match || behavior_ != Behavior::kRemoved;
    return status;
  }

  absl::Status Finish() {
    if (!has_open_ || start_ == end_) {
      return absl::OkStatus();
    }
    return sink_({word_.text.substr(start_, end_ - start_), word_.at_start && start_ == 0});
  }

 private:
  bool Joins(bool is_match) const {
    switch (behavior_) {
      case Behavior::kContiguous:
        return is_match == previous_match_;
      case Behavior::kMergedWithPrevious:
        return is_match && !previous_match_;
      case Behavior::kMergedWithNext:
        return !is_match && previous_match_;
      default:
        return false;
    }
  }

  const Behavior behavior_;
  const Word word_;
  const WordSink sink_;
  bool has_open_ = false;  // [start_, end_) is not emitted yet
  bool previous_match_ = false;
  size_t start_ = 0;
  size_t end_ = 0;
};

// Splits where `matches` says so of a single character.
absl::Status SplitByCharacter(Word word, Behavior behavior,
                              absl::FunctionRef<bool(char32_t)> matches, WordSink sink) {
  Joiner joiner(behavior, word, sink);
  size_t plain = 0;  // begin of the characters that do not match
  for (size_t at = 0, next = 0; at < word.text.size(); at = next) {
    next = at + Utf8Length(word.text, at);
    if (!matches(CharacterAt(word.text, at))) {
      continue;
    }
    if (plain < at) {
      if (absl::Status status = joiner.Add(plain, at, false); !status.ok()) {
        return status;
      }
    }
    if (absl::Status status = joiner.Add(at, next, true); !status.ok()) {
      return status;
    }
    plain = next;
  }
  if (plain < word.text.size()) {
    if (absl::Status status = joiner.Add(plain, word.text.size(), false); !status.ok()) {
      return status;
    }
  }
  return joiner.Finish();
}

class SplitByPattern : public PreTokenizer {
 public:
  SplitByPattern(std::unique_ptr<const Regex> pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  absl::Status Split(Word word, WordSink sink) const override {
    Joiner joiner(behavior_, word, sink);
    const auto add = [&](size_t start, size_t end, bool is_match) {
      return joiner.Add(start, end, is_match != invert_);
    };
    absl::Status status = pattern_->Visit(word.text, add);
    return status.ok() ? joiner.Finish() : status;
  }

 private:
  const std::unique_ptr<const Regex> pattern_;
  const Behavior behavior_;
  const bool invert_;
};

class SplitByClass : public PreTokenizer {
 public:
  SplitByClass(bool (*matches)(char32_t), Behavior behavior)
      : matches_(matches), behavior_(behavior) {}

  absl::Status Split(Word word, WordSink sink) const override {
    return SplitByCharacter(word, behavior_, matches_, sink);
  }

 private:
  bool (*const matches_)(char32_t);
  const Behavior behavior_;
};

// Runs of word characters, and runs of characters that are neither word nor space.
class Whitespace : public PreTokenizer {
 public:
  absl::Status Split(Word word, WordSink sink) const override {
    const auto kind_at = [&](size_t at) {
      const char32_t c = CharacterAt(word.text, at);
      return IsWord(c) ? 1 : IsWhiteSpace(c) ? 0 : 2;
    };
    for (size_t at = 0; at < word.text.size();) {
      const size_t start = at;
      const int kind = kind_at(at);
      while (at < word.text.size() && kind_at(at) == kind) {
        at += Utf8Length(word.text, at);
      }
      if (kind != 0) {
        const Word part{word.text.substr(start, at - start), word.at_start && start == 0};
        if (absl::Status status = sink(part); !status.ok()) {
          return status;
        }
      }
    }
    return absl::OkStatus();
  }
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(std::unique_ptr<const Regex> pattern, bool add_prefix_space)
      : pattern_(std::move(pattern)), add_prefix_space_(add_prefix_space) {}

  absl::Status Split(Word word, WordSink sink) const override {
    std::string prefixed;
    if (add_prefix_space_ && word.text[0] != ' ') {
      prefixed.reserve(word.text.size() + 1);
      prefixed += ' ';
      prefixed += word.text;
      word.text = prefixed;
    }
    std::string mapped;
    const auto map = [&](size_t start, size_t end, bool) {
      mapped.clear();
      for (const char byte : word.text.substr(start, end - start)) {
        AppendUtf8(ByteLevelAlphabet()[static_cast<uint8_t>(byte)], &mapped);
      }
      return mapped.empty() ? absl::OkStatus() : sink({mapped, word.at_start && start == 0});
    };
    return pattern_ == nullptr ? map(0, word.text.size(), false) : pattern_->Visit(word.text, map);
  }

 private:
  const std::unique_ptr<const Regex> pattern_;  // null: the word stays whole
  const bool add_prefix_space_;
};

class Metaspace : public PreTokenizer {
 public:
  enum class Scheme { kAlways, kFirst, kNever };

  Metaspace(std::string replacement, Scheme scheme, bool split)
      : replacement_(std::move(replacement)), scheme_(scheme), split_(split) {}

  absl::Status Split(Word word, WordSink sink) const override {
    std::string text;
    text.reserve(word.text.size() + replacement_.size());
    const bool has_prefix =
        word.text[0] == ' ' || word.text.substr(0, replacement_.size()) == replacement_;
    if (!has_prefix &&
        (scheme_ == Scheme::kAlways || (scheme_ == Scheme::kFirst && word.at_start))) {
      text += replacement_;
    }
    for (const char byte : word.text) {
      byte == ' ' ? text += replacement_ : text += byte;
    }
    word.text = text;
    if (!split_) {
      return sink(word);
    }
    const char32_t replacement = CharacterAt(replacement_, 0);
    return SplitByCharacter(
        word, Behavior::kMergedWithNext, [=](char32_t c) { return c == replacement; }, sink);
  }

 private:
  const std::string replacement_;  // one character
  const Scheme scheme_;
  const bool split_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<PreTokenizerPtr> steps) : steps_(std::move(steps)) {}

  absl::Status Split(Word word, WordSink sink) const override { return Run(0, word, sink); }

 private:
  absl::Status Run(size_t step, Word word, WordSink sink) const {
    if (step == steps_.size()) {
      return sink(word);
    }
    return steps_[step]->Split(word, [&](Word part) { return Run(step + 1, part, sink); });
  }

  const std::vector<PreTokenizerPtr> steps_;
};

absl::StatusOr<PreTokenizerPtr> LoadSplit(Fields* fields) {
  constexpr std::pair<const char*, Behavior> kBehaviors[] = {
      {"Removed", Behavior::kRemoved},
      {"Isolated", Behavior::kIsolated},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  auto pattern = LoadPattern(fields);
  if (!pattern.ok()) {
    return pattern.status();
  }
  const std::string wanted = fields->RequiredString("behavior");
  const bool invert = fields->RequiredBool("invert");
  for (const auto& [name, behavior] : kBehaviors) {
    if (wanted == name) {
      return std::make_unique<SplitByPattern>(*std::move(pattern), behavior, invert);
    }
  }
  return fields->Unsupported(wanted,
                             "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
}

absl::StatusOr<PreTokenizerPtr> LoadByteLevel(Fields* fields) {
  std::unique_ptr<const Regex> pattern;
  if (fields->Bool("use_regex", true)) {
    auto compiled = Regex::Compile(kGpt2Pattern);
    if (!compiled.ok()) {
      return compiled.status();
    }
    pattern = *std::move(compiled);
  }
  return std::make_unique<ByteLevel>(std::move(pattern), fields->RequiredBool("add_prefix_space"));
}

absl::StatusOr<PreTokenizerPtr> LoadMetaspace(Fields* fields) {
  const std::string replacement = fields->RequiredString("replacement");
  std::string scheme = fields->String("prepend_scheme", "always");
  if (!fields->Bool("add_prefix_space", true)) {  // the older form of "never"
    if (fields->Find("prepend_scheme") != nullptr && scheme != "never") {
      return fields->Fail("\"add_prefix_space\": false contradicts \"prepend_scheme\"");
    }
    scheme = "never";
  }
  if (replacement.empty() || Utf8Length(replacement, 0) != replacement.size()) {
    return fields->Fail("\"replacement\" must be one character");
  }
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    return fields->Unsupported(scheme, "always, first, never");
  }
  return std::make_unique<Metaspace>(replacement,
                                     scheme == "always"  ? Metaspace::Scheme::kAlways
                                     : scheme == "first" ? Metaspace::Scheme::kFirst
                                                         : Metaspace::Scheme::kNever,
                                     fields->Bool("split", true));
}

absl::StatusOr<PreTokenizerPtr> LoadSequence(Fields* fields) {
  std::vector<PreTokenizerPtr> steps;
  for (const nlohmann::json& step : fields->RequiredArray("pretokenizers")) {
    auto loaded = LoadPreTokenizer(step);
    if (!loaded.ok()) {
      return loaded.status();
    }
    steps.push_back(*std::move(loaded));
  }
  if (steps.size() > 32) {
    return fields->Fail("has more than 32 steps; this is the limit");
  }
  return std::make_unique<Sequence>(std::move(steps));
}

absl::StatusOr<PreTokenizerPtr> LoadByType(const std::string& type, Fields* fields) {
  if (type == "Split") {
    return LoadSplit(fields);
  }
  if (type == "ByteLevel") {
    return LoadByteLevel(fields);
  }
  if (type == "Metaspace") {
    return LoadMetaspace(fields);
  }
  if (type == "Digits") {
    return std::make_unique<SplitByClass>(IsNumeric, fields->RequiredBool("individual_digits")
                                                         ? Behavior::kIsolated
                                                         : Behavior::kContiguous);
  }
  if (type == "Whitespace") {
    return std::make_unique<Whitespace>();
  }
  if (type == "WhitespaceSplit") {
    return std::make_unique<SplitByClass>(IsWhiteSpace, Behavior::kRemoved);
  }
  if (type == "Sequence") {
    return LoadSequence(fields);
  }
  return fields->Unsupported(type, kSupported);
}

}  // namespace

const std::array<char32_t, 256>& ByteLevelAlphabet() {
  static const std::array<char32_t, 256> alphabet = [] {
    std::array<char32_t, 256> table{};
    char32_t next = 256;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      table[byte] = printable ? byte : next++;
    }
    return table;
  }();
  return alphabet;
}

absl::StatusOr<PreTokenizerPtr> LoadPreTokenizer(const nlohmann::json& json) {
  if (json.is_null()) {
    return std::make_unique<Sequence>(std::vector<PreTokenizerPtr>());
  }
  Fields fields(json, "pre_tokenizer");
  const std::string type = fields.Type();
  if (!fields.status().ok()) {
    return fields.status();
  }
  auto loaded = LoadByType(type, &fields);
  return fields.status().ok() ? std::move(loaded) : fields.status();
}

}  // namespace evenflow
