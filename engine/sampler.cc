#include "engine/sampler.h"

#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace evenflow {
namespace {

constexpr size_t kMaxLogitBias = 1024;
constexpr int kMaxTopLogprobs = 20;

// A closed or, with `above`, a half-open range (low, high].
struct Range {
  const char* field;
  float value;
  float low;
  float high;
  bool above = false;
};

absl::Status CheckRange(const Range& range) {
  // Written so that NaN fails.
  const bool low_ok = range.above ? range.value > range.low : range.value >= range.low;
  if (low_ok && range.value <= range.high) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is %g; it must be in %s%g, %g]", range.field, range.value,
                      range.above ? "(" : "[", range.low, range.high));
}

absl::Status CheckToken(const char* field, int32_t token, int64_t previous, int vocab_size) {
  if (token < 0 || token >= vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " has token ", token, "; tokens must be in [0, ", vocab_size - 1, "]"));
  }
  if (token <= previous) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " has token ", token, " after ", previous,
                     "; tokens must be ascending and each given once"));
  }
  return absl::OkStatus();
}

absl::Status CheckTokens(const SamplingParams& params, int vocab_size) {
  if (params.logit_bias.size() > kMaxLogitBias) {
    return absl::InvalidArgumentError(absl::StrCat("logit_bias has ", params.logit_bias.size(),
                                                   " entries; at most ", kMaxLogitBias,
                                                   " are allowed"));
  }
  int64_t previous = -1;
  for (const auto& [token, bias] : params.logit_bias) {
    if (auto status = CheckToken("logit_bias", token, previous, vocab_size); !status.ok()) {
      return status;
    }
    if (auto status = CheckRange({"logit_bias.bias", bias, -100, 100}); !status.ok()) {
      return status;
    }
    previous = token;
  }
  previous = -1;
  for (const int32_t token : params.allowed_tokens) {
    if (auto status = CheckToken("allowed_token_ids", token, previous, vocab_size); !status.ok()) {
      return status;
    }
    previous = token;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateSampling(const SamplingParams& params, int vocab_size) {
  const Range ranges[] = {
      {"temperature", params.temperature, 0, 100},
      {"typical_p", params.typical_p, 0, 1, true},
      {"top_p", params.top_p, 0, 1, true},
      {"min_p", params.min_p, 0, 1},
      {"repetition_penalty", params.repetition_penalty, 0, 10, true},
      {"frequency_penalty", params.frequency_penalty, -2, 2},
      {"presence_penalty", params.presence_penalty, -2, 2},
      {"penalty_decay", params.penalty_decay, 0, 1, true},
  };
  for (const Range& range : ranges) {
    if (auto status = CheckRange(range); !status.ok()) {
      return status;
    }
  }
  if (params.top_k < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "top_k is ", params.top_k, "; it must be at least 0 (0 considers all tokens)"));
  }
  if (params.penalty_last_n < -1) {
    return absl::InvalidArgumentError(
        absl::StrCat("penalty_last_n is ", params.penalty_last_n,
                     "; it must be at least -1 (-1 looks at all remembered tokens)"));
  }
  if (params.top_logprobs < -1 || params.top_logprobs > kMaxTopLogprobs) {
    return absl::InvalidArgumentError(absl::StrCat("logprobs is ", params.top_logprobs,
                                                   "; it must be in [0, ", kMaxTopLogprobs, "]"));
  }
  return CheckTokens(params, vocab_size);
}

}  // namespace evenflow
