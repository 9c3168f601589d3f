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
  for (int64_t age = 0; age < count; ++age) {
    const int32_t token = row.history[(row.position - 1 - age) % row.history_capacity];
    if (token >= 0 && token < vocab) {
      ages.emplace_back(token, static_cast<int32_t>(age));
    }
  }
  std::sort(ages.begin(), ages.end());
  seen->clear();
  for (size_t i = 0; i < ages.size();) {
    SeenToken entry;
    entry.token = ages[i].first;
    entry.occurrences.newest = std::pow(params.penalty_decay, static_cast<float>(ages[i].second));
    for (; i < ages.size() && ages[i].first == entry.token; ++i) {
      entry.occurrences.count += std::pow(params.penalty_decay, static_cast<float>(ages[i].second));
    }
    seen->push_back(entry);
  }
}

}  // namespace evenflow
