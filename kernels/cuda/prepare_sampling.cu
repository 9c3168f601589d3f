#include <limits>

#include "kernels/cuda/sample.h"
#include "kernels/math/philox.h"

namespace evenflow {

CudaSamplingRow PrepareSampling(const SamplingRow& row, std::vector<LogitEdit>* edits) {
  const SamplingParams& params = *row.params;
  CudaSamplingRow result;
  result.wanted = true;
  result.temperature = params.temperature;
  result.typical_p = params.typical_p;
  result.top_p = params.top_p;
  result.min_p = params.min_p;
  result.repetition = params.repetition_penalty;
  result.frequency = params.frequency_penalty;
  result.presence = params.presence_penalty;
  result.top_k = params.top_k;
  result.top_logprobs = params.top_logprobs;
  result.draw = UniformAt(params.seed, row.position);
  result.first_edit = static_cast<int32_t>(edits->size());
  const auto append = [&](int32_t token, float bias, Occurrences occurrences, int32_t* count) {
    edits->push_back({token, bias, occurrences});
    ++*count;
  };
  for (const auto& [token, bias] : params.logit_bias) {
    append(token, bias, {}, &result.biases);
  }
  for (const int32_t token : params.allowed_tokens) {
    append(token, 0, {}, &result.allowed);
  }
  for (int i = 0; i < row.banned_count; ++i) {
    append(row.banned[i], 0, {}, &result.banned);
  }
  if (HasPenalties(params)) {
    result.newest_seen = row.newest_drawn;
    static thread_local std::vector<SeenToken> seen;
    FindOccurrences(row, std::numeric_limits<int32_t>::max(), &seen);
    for (const SeenToken& token : seen) {
      append(token.token, 0, token.occurrences, &result.seen);
    }
  }
  return result;
}

}  // namespace evenflow
