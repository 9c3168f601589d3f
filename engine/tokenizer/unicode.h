// Character classes as Rust's standard library and regex crate define them, from ICU's data.
// Pure functions; thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_UNICODE_H_
#define EVENFLOW_ENGINE_TOKENIZER_UNICODE_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace evenflow {

bool IsWhiteSpace(char32_t code_point);  // White_Space; char::is_whitespace and \s
bool IsNumeric(char32_t code_point);     // Nd, Nl, No; char::is_numeric
bool IsWord(char32_t code_point);        // \w of the regex crate

// REQUIRES for all: valid UTF-8, offsets on character boundaries.
char32_t CharacterAt(std::string_view text, size_t at);
char32_t CharacterBefore(std::string_view text, size_t end);  // end > 0
size_t SkipWhiteSpace(std::string_view text, size_t from);    // first character that is none
size_t TrimWhiteSpace(std::string_view text, size_t end);     // end of the last that is none, or 0

// Members of a general category ("L", "Nd") that PCRE2 10.42 does not know yet, as ranges for a
// character class; "" when there are none.
std::string NewerThanPcre2(std::string_view category);

// The general category of a letter, mark or number newer than Unicode 14, or "".
std::string_view CategoryOfNewCharacter(char32_t code_point);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_UNICODE_H_
