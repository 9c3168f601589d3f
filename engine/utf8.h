// UTF-8 as bytes: validation, decoding and encoding of single characters.
// Pure functions; thread-safe.
#ifndef EVENFLOW_ENGINE_UTF8_H_
#define EVENFLOW_ENGINE_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace evenflow {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// What stands at the front of some bytes (Unicode 15, table 3-7: no surrogates, no overlong forms).
struct Utf8Scan {
  enum class Kind {
    kValid,       // `length` bytes are one character
    kInvalid,     // `length` bytes are a maximal ill-formed subpart: one U+FFFD (Unicode 3.9)
    kIncomplete,  // all `length` bytes that are left begin a character and could be continued
  };
  Kind kind;
  size_t length;        // >= 1
  char32_t code_point;  // of a valid character
};

// REQUIRES: !bytes.empty().
Utf8Scan ScanUtf8(std::string_view bytes);

// Length of the longest prefix that is valid UTF-8; bytes.size() when all is.
size_t ValidUtf8Prefix(std::string_view bytes);

// The bytes with every ill-formed subpart replaced by U+FFFD.
std::string ReplaceInvalidUtf8(std::string_view bytes);

// REQUIRES: code_point is a Unicode scalar value.
void AppendUtf8(char32_t code_point, std::string* out);

// Length of the character that starts at `bytes[at]`. REQUIRES: valid UTF-8, `at` on a boundary.
inline size_t Utf8Length(std::string_view bytes, size_t at) {
  const auto lead = static_cast<uint8_t>(bytes[at]);
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_UTF8_H_
