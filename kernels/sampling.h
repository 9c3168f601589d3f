// What choosing a token needs and leaves: plain data, read by every backend.
#ifndef EVENFLOW_KERNELS_SAMPLING_H_
#define EVENFLOW_KERNELS_SAMPLING_H_

#include <cstdint>
#include <utility>
#include <vector>

namespace evenflow {

// Applied in this order: bias and allowed tokens, penalties, temperature, top-k, typical, top-p,
// min-p; then one draw of Philox4x32-10 keyed by (seed, position). Defaults change nothing but
// draw.
struct SamplingParams {
  float temperature = 1;  // >= 0; 0: the most likely token, ties to the smallest id
  int32_t top_k = 0;      // 0: all
  float typical_p = 1;    // (0, 1]
  float top_p = 1;        // (0, 1]
  float min_p = 0;        // [0, 1]
  float repetition_penalty =
      1;  // > 0; divides positive and multiplies negative logits of tokens seen
  float frequency_penalty = 0;  // [-2, 2], times the (decayed) number of occurrences
  float presence_penalty = 0;   // [-2, 2], once for a token seen
  float penalty_decay =
      1;  // (0, 1]; for frequency and presence an occurrence counts decay^n, n tokens being newer
  int32_t penalty_last_n =
      64;  // tokens looked back at, at most the session's ring; 0: none, -1: the whole ring
  uint64_t seed = 0;
  int32_t top_logprobs = -1;  // -1: no logprobs; 0: the chosen token's; n: also the n most likely
  std::vector<std::pair<int32_t, float>>
      logit_bias;                       // (token, added to its logit), ascending tokens
  std::vector<int32_t> allowed_tokens;  // ascending; empty: all
};

// One row of the sampling batch. `params` stays valid until the step is collected, what else is
// pointed at until it is launched.
struct SamplingRow {
  const SamplingParams* params = nullptr;
  int64_t position = 0;  // absolute position that the sampled token will have
  // Ring of the session's token ids: the token at position p is history[p % history_capacity], for
  // the newest min(position, history_capacity) positions before `position`.
  const int32_t* history = nullptr;
  int32_t history_capacity = 0;
  // The newest token is not in the ring yet: it is the one that the step reads for this sample,
  // DrawnAt the step before.
  bool newest_drawn = false;
  const int32_t* banned =
      nullptr;  // tokens that may not be drawn here (min_tokens), [banned_count]
  int32_t banned_count = 0;
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;  // natural log of the softmax of the raw logits
};

struct SampledToken {
  int32_t token = -1;  // -1: the logits were not finite, or nothing was allowed
  float logprob = 0;   // set when top_logprobs >= 0
  std::vector<TokenLogprob> top;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_SAMPLING_H_
