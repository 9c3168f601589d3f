#include "kernels/occurrences.h"

#include <algorithm>
#include <cmath>

namespace evenflow {

bool HasPenalties(const SamplingParams& params) {
  return params.penalty_last_n != 0 &&
         (params.repetition_penalty != 1 || params.frequency_penalty != 0 ||
          params.presence_penalty != 0);
}

void FindOccurrences(const SamplingRow& row, int vocab, std::vector<SeenToken>* seen) {
  const SamplingParams& params = *row.params;
  int64_t count = std::min<int64_t>(row.position, row.history_capacity);
  if (params.penalty_last_n >= 0) {
    count = std::min<int64_t>(count, params.penalty_last_n);
  }
  static thread_local std::vector<std::pair<int32_t, int32_t>> ages;  // (token, tokens since)
  ages.clear();
  for (int64_t age = row.newest_drawn ? 1 : 0; age < count; ++age) {
    const int32_t token = row.history[(row.position - 1 - age) % row.history_capacity];
    if (token >= 0 && token < vocab) {
      ages.emplace_back(token, static_cast<int32_t>(age));
    }
  }
  // The newest last, so that one that is added later makes no difference to the sum's bits.
  std::sort(ages.begin(), ages.end(), [](const auto& a, const auto& b) {
    return a.first < b.first || (a.first == b.first && a.second > b.second);
  });
  seen->clear();
  for (const auto& [token, age] : ages) {
    if (seen->empty() || seen->back().token != token) {
      seen->push_back({token, {}});
    }
    Occurrences& occurrences = seen->back().occurrences;
    occurrences.newest = std::pow(params.penalty_decay, static_cast<float>(age));
    occurrences.count += occurrences.newest;
  }
}

}  // namespace evenflow
