#include "engine/tokenizer/unicode.h"

#include <unicode/uchar.h>

#include "engine/utf8.h"

namespace evenflow {
namespace {

size_t StartOfCharacterBefore(std::string_view text, size_t end) {
  do {
    --end;
  } while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

}  // namespace

bool IsWhiteSpace(char32_t code_point) {
  return u_isUWhiteSpace(static_cast<UChar32>(code_point)) != 0;
}

bool IsNumeric(char32_t code_point) {
  const auto c = static_cast<UChar32>(code_point);
  return (U_GET_GC_MASK(c) & U_GC_N_MASK) != 0 ||
         (u_charType(c) == U_UNASSIGNED && CategoryOfNewCharacter(code_point).substr(0, 1) == "N");
}

bool IsWord(char32_t code_point) {
  const auto c = static_cast<UChar32>(code_point);
  if (u_charType(c) == U_UNASSIGNED) {
    const std::string_view category = CategoryOfNewCharacter(code_point);
    return !category.empty() && category != "No";
  }
  return u_isUAlphabetic(c) != 0 || u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) != 0 ||
         (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

char32_t CharacterAt(std::string_view text, size_t at) {
  return ScanUtf8(text.substr(at)).code_point;
}

char32_t CharacterBefore(std::string_view text, size_t end) {
  return CharacterAt(text, StartOfCharacterBefore(text, end));
}

size_t SkipWhiteSpace(std::string_view text, size_t from) {
  while (from < text.size() && IsWhiteSpace(CharacterAt(text, from))) {
    from += Utf8Length(text, from);
  }
  return from;
}

size_t TrimWhiteSpace(std::string_view text, size_t end) {
  while (end > 0 && IsWhiteSpace(CharacterBefore(text, end))) {
    end = StartOfCharacterBefore(text, end);
  }
  return end;
}

}  // namespace evenflow
