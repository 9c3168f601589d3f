#include "engine/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <cstdint>
#include <utility>

#include <pcre2.h>

#include "engine/utf8.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

constexpr uint32_t kMatchLimit = 100'000'000;  // about a second of backtracking in one match
constexpr uint32_t kDepthLimit = 1'000'000;
constexpr uint32_t kHeapLimitKib = 64 << 10;
constexpr size_t kJitStackBytes = size_t{8} << 20;  // reserved, touched as needed

// What a match needs besides the pattern: one for each thread, reused.
class Scratch {
 public:
  Scratch()
      : data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)),
        stack_(pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr)) {
    if (!ok()) {
      return;
    }
    pcre2_set_match_limit(context_, kMatchLimit);
    pcre2_set_depth_limit(context_, kDepthLimit);
    pcre2_set_heap_limit(context_, kHeapLimitKib);
    if (stack_ != nullptr) {  // null where the library has no JIT
      pcre2_jit_stack_assign(context_, nullptr, stack_);
    }
  }

  ~Scratch() {
    pcre2_match_data_free(data_);
    pcre2_match_context_free(context_);
    pcre2_jit_stack_free(stack_);
  }

  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  bool ok() const { return data_ != nullptr && context_ != nullptr; }

  pcre2_match_data* data() { return data_; }

  pcre2_match_context* context() { return context_; }

 private:
  pcre2_match_data* const data_;
  pcre2_match_context* const context_;
  pcre2_jit_stack* const stack_;
};

std::string MessageOf(int error) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(error, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

// Null with `error` and `offset` set when the pattern does not compile.
pcre2_code* CompilePcre2(const std::string& pattern, uint32_t options, int* error, size_t* offset) {
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  if (context == nullptr) {
    *error = PCRE2_ERROR_NOMEMORY;
    return nullptr;
  }
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context, 100);
  pcre2_set_max_pattern_length(context, 64 << 10);
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   options | PCRE2_UTF, error, offset, context);
  pcre2_compile_context_free(context);
  return code;
}

absl::StatusOr<pcre2_code*> CompileOrExplain(const std::string& pattern, uint32_t options) {
  int error = 0;
  size_t offset = 0;
  pcre2_code* code = CompilePcre2(pattern, options, &error, &offset);
  if (code == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("regular expression ", pattern.substr(0, 300),
                                                   ": ", MessageOf(error), " (byte ", offset, ")"));
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without JIT the interpreter serves
  return code;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Regex>> Regex::Compile(std::string_view pattern) {
  auto translated = TranslateRegex(pattern);
  if (!translated.ok()) {
    return translated.status();
  }
  auto code = CompileOrExplain(*translated, PCRE2_UCP | PCRE2_MULTILINE);
  if (!code.ok()) {
    return code.status();
  }
  return std::unique_ptr<const Regex>(new Regex(*code));
}

absl::StatusOr<std::unique_ptr<const Regex>> Regex::Literal(std::string_view text) {
  auto code = CompileOrExplain(std::string(text), PCRE2_LITERAL);
  if (!code.ok()) {
    return code.status();
  }
  return std::unique_ptr<const Regex>(new Regex(*code));
}

Regex::~Regex() {
  pcre2_code_free(static_cast<pcre2_code*>(code_));
}

absl::Status Regex::Visit(std::string_view text, Visitor visit) const {
  thread_local Scratch scratch;
  if (!scratch.ok()) {
    return absl::ResourceExhaustedError("out of memory for a regular expression match");
  }
  const auto* code = static_cast<const pcre2_code*>(code_);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t visited = 0;  // stretches up to here are delivered
  size_t from = 0;     // the next search starts here
  size_t last_match_end = std::string_view::npos;
  while (from <= text.size() && !text.empty()) {
    const int found = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                                  scratch.data(), scratch.context());
    if (found == PCRE2_ERROR_NOMATCH) {
      break;
    }
    if (found < 0) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "splitting ", text.size(), " bytes of text by a regular expression: ", MessageOf(found)));
    }
    const size_t start = pcre2_get_ovector_pointer(scratch.data())[0];
    const size_t end = pcre2_get_ovector_pointer(scratch.data())[1];
    if (start > end || start < visited) {
      return absl::InvalidArgumentError("a regular expression moves its match's start (\\K)");
    }
    // As Oniguruma's iterator: an empty match right after a match is skipped.
    if (start == end && end == last_match_end) {
      from += from < text.size() ? Utf8Length(text, from) : 1;
      continue;
    }
    if (visited != start) {
      if (absl::Status status = visit(visited, start, false); !status.ok()) {
        return status;
      }
    }
    if (absl::Status status = visit(start, end, true); !status.ok()) {
      return status;
    }
    visited = from = last_match_end = end;
  }
  return visited == text.size() ? absl::OkStatus() : visit(visited, text.size(), false);
}

}  // namespace evenflow
