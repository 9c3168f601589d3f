// From Oniguruma's Ruby syntax to PCRE2's. Only constructs whose meaning is known to be the same in
// both, or can be rewritten, pass.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <string>
#include <string_view>

#include <pcre2.h>

#include "engine/tokenizer/regex.h"
#include "engine/tokenizer/unicode.h"
#include "engine/utf8.h"

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

// Oniguruma's \w, also the superscripts and fractions of Latin-1. PCRE2 10.42 lacks marks and
// connectors, and counts all numbers. Of characters newer than PCRE2's tables, Alphabetic ones come
// as letters.
const std::string& WordClass() {
  static const std::string word =
      absl::StrCat(R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\xb2\xb3\xb9\xbc-\xbe)", NewerThanPcre2("L"),
                   NewerThanPcre2("M"), NewerThanPcre2("Nd"));
  return word;
}

bool Compiles(const std::string& pattern) {
  int error = 0;
  size_t offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

class Translator {
 public:
  explicit Translator(std::string_view in) : in_(in) {}

  absl::StatusOr<std::string> Run() && {
    if (ValidUtf8Prefix(in_) != in_.size()) {
      Refuse("invalid UTF-8");
    }
    while (error_.empty() && at_ < in_.size()) {
      switch (in_[at_]) {
        case '\\':
          Escape();
          break;
        case '[':
          in_class_ ? Refuse("a set inside a character class") : OpenClass();
          break;
        case ']':
          in_class_ = false;
          Copy(1);
          break;
        case '(':
          in_class_ ? Copy(1) : Group();
          break;
        case '{':
          in_class_ ? Copy(1) : Interval();
          break;
        case '&':
          if (in_class_ && Rest().substr(0, 2) == "&&") {
            Refuse("the set intersection &&");
          }
          Copy(1);
          break;
        default:
          Copy(1);
      }
    }
    if (!error_.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("regular expression ",
                                                     std::string(in_.substr(0, 300)), ": ", error_,
                                                     " is not supported (byte ", at_, ")"));
    }
    return std::move(out_);
  }

 private:
  std::string_view Rest() const { return in_.substr(at_); }

  void Refuse(std::string what) {
    if (error_.empty()) {
      error_ = std::move(what);
    }
  }

  void Copy(size_t count) {
    out_ += Rest().substr(0, count);
    at_ += count;
  }

  // Consumes `count` bytes of the input and writes `text` instead.
  void Replace(size_t count, std::string_view text) {
    out_ += text;
    at_ += count;
  }

  void OpenClass() {
    in_class_ = true;
    Copy(Rest().substr(0, 2) == "[^" ? 2 : 1);
    if (Rest().substr(0, 1) == "]") {
      Replace(1, "\\]");  // a bracket that comes first is itself
    }
  }

  void Escape() {
    if (at_ + 1 == in_.size()) {
      return Refuse("a backslash at the end");
    }
    const char c = in_[at_ + 1];
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c))) {
      return Copy(1 + Utf8Length(in_, at_ + 1));
    }
    switch (c) {
      case 's':
        return Replace(2, R"(\p{White_Space})");
      case 'S':
        return Replace(2, R"(\P{White_Space})");
      case 'd':
        return Category(2, "\\p{Nd}", NewerThanPcre2("Nd"));
      case 'D':
        return in_class_ ? Refuse("\\D in a character class")
                         : Replace(2, absl::StrCat("[^\\p{Nd}", NewerThanPcre2("Nd"), "]"));
      case 'w':
        return Replace(2, in_class_ ? WordClass() : Class("[", "]"));
      case 'W':
        return in_class_ ? Refuse("\\W in a character class") : Replace(2, Class("[^", "]"));
      case 'b':
        return Replace(2, in_class_ ? "\\x08" : WordBoundary());
      case 'h':
        return Replace(2, in_class_ ? "0-9a-fA-F" : "[0-9a-fA-F]");
      case 'v':
        return Replace(2, "\\x0b");
      case 'u':
        return UnicodeEscape();
      case 'x':
        return Copy(HexEscapeLength());
      case 'p':
      case 'P':
        return Property();
      default:
        if (absl::StrContains(in_class_ ? "tnrfae" : "tnrfaeAzZRX123456789", c)) {
          return Copy(2);
        }
        return Refuse(absl::StrCat("\\", std::string(1, c)));
    }
  }

  static std::string Class(std::string_view open, std::string_view close) {
    return absl::StrCat(std::string(open), WordClass(), std::string(close));
  }

  static std::string WordBoundary() {
    const std::string word = Class("[", "]");
    return absl::StrCat("(?:(?<=", word, ")(?!", word, ")|(?<!", word, ")(?=", word, "))");
  }

  // \x{...} or \xHH
  size_t HexEscapeLength() const {
    const size_t close = Rest().substr(2, 1) == "{" ? Rest().find('}') : Rest().npos;
    return close == Rest().npos ? 2 : close + 1;
  }

  void UnicodeEscape() {
    const std::string_view digits = Rest().substr(2, 4);
    if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos) {
      return Refuse("\\u without four hexadecimal digits");
    }
    Replace(6, absl::StrCat("\\x{", std::string(digits), "}"));
  }

  // PCRE2 takes a script's bare name for the wider script extensions; Oniguruma does not.
  void Property() {
    const size_t close = Rest().find('}');
    if (Rest().substr(2, 1) != "{" || close == std::string_view::npos) {
      return Refuse("\\p without {name}");
    }
    const std::string name(Rest().substr(3, close - 3));
    if (const std::string newer = NewerThanPcre2(name); !newer.empty() && !name.empty()) {
      const std::string known = absl::StrCat("\\p{", name, "}");
      if (in_[at_ + 1] == 'p') {
        return Category(close + 1, known, newer);
      }
      return in_class_ ? Refuse(absl::StrCat("\\P{", name, "} in a character class"))
                       : Replace(close + 1, absl::StrCat("[^", known, newer, "]"));
    }
    const std::string script = absl::StrCat("\\", std::string(1, in_[at_ + 1]), "{sc:", name, "}");
    if (name.size() > 2 && name[0] != '^' && Compiles(script)) {
      return Replace(close + 1, script);
    }
    Copy(close + 1);
  }

  // A general category, with the characters that PCRE2 lacks.
  void Category(size_t length, const std::string& known, const std::string& newer) {
    Replace(length, absl::StrCat(in_class_ ? "" : "[", known, newer, in_class_ ? "" : "]"));
  }

  void Group() {
    if (Rest().substr(0, 2) != "(?") {
      return Copy(1);
    }
    for (const std::string_view known : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"}) {
      if (Rest().substr(0, known.size()) == known) {
        return Copy(known.size());
      }
    }
    // Further in, the two engines disagree on how far the option reaches.
    if (at_ == 0 && Rest().substr(0, 4) == "(?i)") {
      return Copy(4);
    }
    Refuse(absl::StrCat("the group ", std::string(Rest().substr(0, 4)), "...)"));
  }

  // {n}, {n,}, {n,m}, {,m}. A '+' behind it makes PCRE2's interval possessive, but repeats
  // Oniguruma's.
  void Interval() {
    const size_t close = Rest().find_first_not_of("0123456789,", 1);
    if (close == std::string_view::npos || Rest()[close] != '}' || close == 1) {
      return Replace(1, "\\{");
    }
    std::string body(Rest().substr(1, close - 1));
    if (body[0] == ',') {
      body = absl::StrCat("0", body);
    }
    if (Rest().substr(close + 1, 1) != "+") {
      return Replace(close + 1, absl::StrCat("{", body, "}"));
    }
    const bool from_zero = absl::StartsWith(body, "0,");
    if ((!from_zero && !absl::StartsWith(body, "1,")) || absl::EndsWith(body, ",0")) {
      return Refuse(absl::StrCat("the repeated interval {", body, "}+"));
    }
    Replace(close + 2, from_zero ? "*" : "+");
  }

  const std::string_view in_;
  std::string out_;
  std::string error_;
  size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

absl::StatusOr<std::string> TranslateRegex(std::string_view pattern) {
  return Translator(pattern).Run();
}

}  // namespace evenflow
