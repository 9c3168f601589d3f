// Regular expressions of tokenizer.json. Hugging Face runs them with Oniguruma (Ruby syntax,
// Unicode classes); here they are translated to PCRE2 with the same meaning, or refused. Immutable;
// thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_REGEX_H_
#define EVENFLOW_ENGINE_TOKENIZER_REGEX_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace evenflow {

// The PCRE2 form (options UTF, UCP, MULTILINE, newline LF) of an Oniguruma pattern.
// INVALID_ARGUMENT naming the construct where the two engines differ and no translation is known.
absl::StatusOr<std::string> TranslateRegex(std::string_view pattern);

class Regex {
 public:
  static absl::StatusOr<std::unique_ptr<const Regex>> Compile(std::string_view pattern);
  // Matches exactly these bytes.
  static absl::StatusOr<std::unique_ptr<const Regex>> Literal(std::string_view text);

  // Called with [start, end) of a stretch and whether it is a match.
  using Visitor = absl::FunctionRef<absl::Status(size_t start, size_t end, bool is_match)>;

  // Visits the stretches of `text` in order: the matches and what lies between them. REQUIRES:
  // valid UTF-8. RESOURCE_EXHAUSTED when matching exceeds the limits (100 million steps, 64 MiB).
  absl::Status Visit(std::string_view text, Visitor visit) const;

  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

 private:
  explicit Regex(void* code) : code_(code) {}

  void* const code_;  // pcre2_code
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_REGEX_H_
