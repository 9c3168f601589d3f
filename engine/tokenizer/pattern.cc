#include "engine/tokenizer/pattern.h"

#include <string>

namespace evenflow {

absl::StatusOr<std::unique_ptr<const Regex>> LoadPattern(Fields* fields) {
  Fields pattern(fields->RequiredObject("pattern"), fields->where() + " pattern");
  if (!fields->status().ok()) {
    return fields->status();
  }
  const bool is_regex = pattern.Find("Regex") != nullptr;
  const std::string text = pattern.RequiredString(is_regex ? "Regex" : "String");
  if (!pattern.status().ok()) {
    return pattern.status();
  }
  if (text.empty()) {
    return pattern.Fail("is empty; one that matches something is expected");
  }
  auto regex = is_regex ? Regex::Compile(text) : Regex::Literal(text);
  if (!regex.ok()) {
    return pattern.Fail(
        std::string_view(regex.status().message().data(), regex.status().message().size()));
  }
  return regex;
}

}  // namespace evenflow
