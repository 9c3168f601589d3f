// Character classes as Rust's standard library and regex crate define them, from ICU's data.
// Pure functions; thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_UNICODE_H_
#define EVENFLOW_ENGINE_TOKENIZER_UNICODE_H_

#include <cstddef>
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

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_UNICODE_H_
