#include "engine/tokenizer/rwkv_vocabulary.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <system_error>

#include "engine/utf8.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

// All of the text is a number without a sign.
template <class Number>
bool ReadNumber(std::string_view text, int base, Number* number) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *number, base);
  return error == std::errc() && stop == end && text.front() != '-';
}

// A literal of Python, 'text', "text", b'bytes' or b"bytes", to the bytes that it stands for. Takes
// what repr() writes: the escapes \\ \' \" \n \r \t \xHH, in strings also \uHHHH and \UHHHHHHHH.
class LiteralReader {
 public:
  explicit LiteralReader(std::string_view literal) : rest_(literal) {}

  absl::StatusOr<std::string> Read() {
    is_bytes_ = Skip('b');
    const char quote = rest_.empty() ? '\0' : rest_.front();
    if (quote != '\'' && quote != '"') {
      return Fail("a string or bytes literal is expected");
    }
    rest_.remove_prefix(1);
    while (!Skip(quote)) {
      if (rest_.empty()) {
        return Fail("it does not end");
      }
      if (absl::Status status = ReadCharacter(); !status.ok()) {
        return status;
      }
    }
    return rest_.empty() ? absl::StatusOr<std::string>(bytes_) : Fail("it ends too early");
  }

 private:
  static absl::Status Fail(const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat("the token is no literal of Python: ", why));
  }

  bool Skip(char c) {
    const bool found = !rest_.empty() && rest_.front() == c;
    rest_.remove_prefix(found ? 1 : 0);
    return found;
  }

  absl::Status ReadCharacter() {
    if (Skip('\\')) {
      return ReadEscape();
    }
    const Utf8Scan scan = ScanUtf8(rest_);
    const bool plain = scan.kind == Utf8Scan::Kind::kValid && scan.code_point >= 0x20;
    if (!plain || (is_bytes_ && scan.code_point >= 0x7F)) {
      return Fail(is_bytes_ ? "a character in it is not printable ASCII"
                            : "a character in it is a control character or invalid UTF-8");
    }
    bytes_ += rest_.substr(0, scan.length);
    rest_.remove_prefix(scan.length);
    return absl::OkStatus();
  }

  absl::Status ReadEscape() {
    const char kind = rest_.empty() ? '\0' : rest_.front();
    rest_.remove_prefix(rest_.empty() ? 0 : 1);
    switch (kind) {
      case '\\':
      case '\'':
      case '"':
        bytes_ += kind;
        return absl::OkStatus();
      case 'n':
        bytes_ += '\n';
        return absl::OkStatus();
      case 'r':
        bytes_ += '\r';
        return absl::OkStatus();
      case 't':
        bytes_ += '\t';
        return absl::OkStatus();
      case 'x':
        return ReadCodePoint(2);
      case 'u':
      case 'U':
        if (!is_bytes_) {
          return ReadCodePoint(kind == 'u' ? 4 : 8);
        }
        break;
      default:
        break;
    }
    return Fail(
        absl::StrCat("the escape \\", absl::CEscape(std::string(1, kind)),
                     " is not supported; supported: \\\\ \\' \\\" \\n \\r \\t \\x \\u \\U"));
  }

  absl::Status ReadCodePoint(size_t digits) {
    uint32_t value = 0;
    const std::string_view number = rest_.substr(0, digits);
    if (number.size() != digits || !ReadNumber(number, 16, &value)) {
      return Fail(absl::StrCat("an escape needs ", digits, " hexadecimal digits"));
    }
    rest_.remove_prefix(digits);
    if (is_bytes_) {
      bytes_ += static_cast<char>(value);
    } else if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
      return Fail(absl::StrCat("U+", absl::Hex(value, absl::kZeroPad4), " is no character"));
    } else {
      AppendUtf8(value, &bytes_);
    }
    return absl::OkStatus();
  }

  std::string_view rest_;
  bool is_bytes_ = false;
  std::string bytes_;
};

struct Line {
  int64_t id = 0;
  std::string token;
};

absl::StatusOr<Line> ParseLine(std::string_view text) {
  const size_t first = text.find(' ');
  const size_t last = text.rfind(' ');
  Line line;
  int64_t length = 0;
  if (first == text.npos || first == last || !ReadNumber(text.substr(0, first), 10, &line.id) ||
      !ReadNumber(text.substr(last + 1), 10, &length)) {
    return absl::InvalidArgumentError("an id, a token and its length in bytes are expected");
  }
  if (line.id < 1) {
    return absl::InvalidArgumentError("id 0 stands for the end of a text; ids begin at 1");
  }
  absl::StatusOr<std::string> token =
      LiteralReader(text.substr(first + 1, last - first - 1)).Read();
  if (!token.ok()) {
    return token.status();
  }
  line.token = *std::move(token);
  if (line.token.empty() || line.token.size() > RwkvVocabulary::kMaxTokenBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the token has ", line.token.size(),
                                                   " bytes; allowed: 1 to ",
                                                   RwkvVocabulary::kMaxTokenBytes));
  }
  if (line.token.size() != static_cast<uint64_t>(length)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the token has ", line.token.size(), " bytes; its line says ", length));
  }
  return line;
}

}  // namespace

absl::StatusOr<RwkvVocabulary> RwkvVocabulary::Parse(std::string_view file) {
  RwkvVocabulary parsed;
  absl::Status status = parsed.vocabulary_.Add(kEndOfText, 0);
  int64_t number = 0;
  while (!file.empty()) {
    ++number;
    std::string_view text = file.substr(0, file.find('\n'));
    file.remove_prefix(std::min(file.size(), text.size() + 1));
    if (!text.empty() && text.back() == '\r') {
      text.remove_suffix(1);
    }
    if (text.empty()) {
      continue;
    }
    absl::StatusOr<Line> line = ParseLine(text);
    status = line.ok() ? parsed.vocabulary_.Add(line->token, line->id) : line.status();
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", status.message()));
    }
    parsed.finder_.Add(line->token, static_cast<size_t>(line->id));
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (!parsed.vocabulary_.Find(std::string(1, static_cast<char>(byte)))) {
      return absl::InvalidArgumentError(
          absl::StrCat("byte 0x", absl::Hex(byte, absl::kZeroPad2),
                       " is no token; a vocabulary of RWKV has each of the 256 bytes"));
    }
  }
  return parsed;
}

void RwkvVocabulary::Encode(std::string_view bytes, std::vector<int32_t>* ids) const {
  // Every byte is a token, so matches follow one another without gaps.
  for (auto match = finder_.Find(bytes, 0); match; match = finder_.Find(bytes, match->end)) {
    ids->push_back(static_cast<int32_t>(match->value));
  }
}

}  // namespace evenflow
