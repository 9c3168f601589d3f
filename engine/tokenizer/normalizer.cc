#include "engine/tokenizer/normalizer.h"

#include <string_view>
#include <utility>

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>

#include "engine/tokenizer/fields.h"
#include "engine/tokenizer/pattern.h"
#include "engine/tokenizer/regex.h"
#include "engine/tokenizer/unicode.h"
#include "engine/utf8.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

constexpr std::string_view kSupported =
    "NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, Replace, Sequence";
constexpr size_t kMaxGrowth = 16;  // by one rewrite; NFKD grows UTF-8 by 11 at most

using NormalizerPtr = std::unique_ptr<const Normalizer>;

// Hugging Face's normalization stands at Unicode 9: characters assigned later stay as they are.
const icu::UnicodeSet& Unicode9() {
  static const icu::UnicodeSet* const set = [] {
    UErrorCode error = U_ZERO_ERROR;
    auto* made = new icu::UnicodeSet(u"[:age=9.0:]", error);
    made->freeze();
    return made;  // lives as long as the process, as ICU's own data do
  }();
  return *set;
}

class UnicodeForm : public Normalizer {
 public:
  explicit UnicodeForm(const icu::Normalizer2* form) : form_(*form, Unicode9()) {}

  absl::Status Apply(NormalizedText* text) const override {
    std::string out;
    icu::StringByteSink<std::string> sink(&out, static_cast<int32_t>(text->text.size()));
    UErrorCode error = U_ZERO_ERROR;
    form_.normalizeUTF8(
        0, icu::StringPiece(text->text.data(), static_cast<int32_t>(text->text.size())), sink,
        nullptr, error);
    if (U_FAILURE(error)) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "Unicode normalization of ", text->text.size(), " bytes: ", u_errorName(error)));
    }
    text->text = std::move(out);
    return absl::OkStatus();
  }

 private:
  const icu::FilteredNormalizer2 form_;
};

class Lowercase : public Normalizer {
 public:
  absl::Status Apply(NormalizedText* text) const override {
    std::string out;
    out.reserve(text->text.size());
    for (size_t at = 0; at < text->text.size(); at += Utf8Length(text->text, at)) {
      const char32_t c = CharacterAt(text->text, at);
      if (c == 0x130) {
        out += "i\xCC\x87";  // the only character whose lower case is two
      } else {
        AppendUtf8(static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))), &out);
      }
    }
    text->text = std::move(out);
    return absl::OkStatus();
  }
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}

  absl::Status Apply(NormalizedText* text) const override {
    const size_t begin = left_ ? SkipWhiteSpace(text->text, 0) : 0;
    const size_t end = right_ ? TrimWhiteSpace(text->text, text->text.size()) : text->text.size();
    text->text = begin < end ? text->text.substr(begin, end - begin) : "";
    text->at_start = text->at_start && begin == 0;
    return absl::OkStatus();
  }

 private:
  const bool left_;
  const bool right_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}

  absl::Status Apply(NormalizedText* text) const override {
    if (!text->text.empty()) {
      text->text.insert(0, prefix_);
    }
    return absl::OkStatus();
  }

 private:
  const std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(std::unique_ptr<const Regex> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  absl::Status Apply(NormalizedText* text) const override {
    const std::string_view in = text->text;
    const size_t limit = (in.size() + 64) * kMaxGrowth;
    std::string out;
    const auto append = [&](size_t start, size_t end, bool is_match) {
      out += is_match ? std::string_view(content_) : in.substr(start, end - start);
      // What replaces a match stands where the match's last character stood.
      if (is_match && start == 0 && end > 0 && (content_.empty() || Utf8Length(in, 0) != end)) {
        text->at_start = false;
      }
      return out.size() <= limit
                 ? absl::OkStatus()
                 : absl::ResourceExhaustedError(
                       absl::StrCat("normalizing ", in.size(), " bytes gives more than ", limit));
    };
    if (absl::Status status = pattern_->Visit(in, append); !status.ok()) {
      return status;
    }
    text->text = std::move(out);
    return absl::OkStatus();
  }

 private:
  const std::unique_ptr<const Regex> pattern_;
  const std::string content_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<NormalizerPtr> steps) : steps_(std::move(steps)) {}

  absl::Status Apply(NormalizedText* text) const override {
    const size_t limit = (text->text.size() + 64) * kMaxGrowth;
    for (const NormalizerPtr& step : steps_) {
      if (absl::Status status = step->Apply(text); !status.ok()) {
        return status;
      }
      if (text->text.size() > limit) {
        return absl::ResourceExhaustedError(
            absl::StrCat("the normalized text has more than ", limit, " bytes"));
      }
    }
    return absl::OkStatus();
  }

 private:
  const std::vector<NormalizerPtr> steps_;
};

const icu::Normalizer2* FormByName(std::string_view name, UErrorCode* error) {
  if (name == "NFC") {
    return icu::Normalizer2::getNFCInstance(*error);
  }
  if (name == "NFD") {
    return icu::Normalizer2::getNFDInstance(*error);
  }
  return name == "NFKC"   ? icu::Normalizer2::getNFKCInstance(*error)
         : name == "NFKD" ? icu::Normalizer2::getNFKDInstance(*error)
                          : nullptr;
}

absl::StatusOr<NormalizerPtr> LoadSequence(Fields* fields) {
  std::vector<NormalizerPtr> steps;
  for (const nlohmann::json& step : fields->RequiredArray("normalizers")) {
    auto loaded = LoadNormalizer(step);
    if (!loaded.ok()) {
      return loaded.status();
    }
    steps.push_back(*std::move(loaded));
  }
  return std::make_unique<Sequence>(std::move(steps));
}

absl::StatusOr<NormalizerPtr> LoadByType(const std::string& type, Fields* fields) {
  UErrorCode error = U_ZERO_ERROR;
  if (const icu::Normalizer2* form = FormByName(type, &error); form != nullptr) {
    return std::make_unique<UnicodeForm>(form);
  }
  if (U_FAILURE(error)) {
    return absl::InternalError(
        absl::StrCat("ICU has no data for ", type, ": ", u_errorName(error)));
  }
  if (type == "Lowercase") {
    return std::make_unique<Lowercase>();
  }
  if (type == "Strip") {
    const bool left = fields->RequiredBool("strip_left");
    return std::make_unique<Strip>(left, fields->RequiredBool("strip_right"));
  }
  if (type == "Prepend") {
    return std::make_unique<Prepend>(fields->RequiredString("prepend"));
  }
  if (type == "Replace") {
    auto pattern = LoadPattern(fields);
    if (!pattern.ok()) {
      return pattern.status();
    }
    return std::make_unique<Replace>(*std::move(pattern), fields->RequiredString("content"));
  }
  if (type == "Sequence") {
    return LoadSequence(fields);
  }
  return fields->Unsupported(type, kSupported);
}

}  // namespace

absl::StatusOr<NormalizerPtr> LoadNormalizer(const nlohmann::json& json) {
  if (json.is_null()) {
    return std::make_unique<Sequence>(std::vector<NormalizerPtr>());
  }
  Fields fields(json, "normalizer");
  const std::string type = fields.Type();
  if (!fields.status().ok()) {
    return fields.status();
  }
  auto loaded = LoadByType(type, &fields);
  return fields.status().ok() ? std::move(loaded) : fields.status();
}

}  // namespace evenflow
