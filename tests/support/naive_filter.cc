#include "tests/support/naive_filter.h"

#include <algorithm>
#include <cmath>

namespace evenflow {

std::vector<std::pair<int32_t, double>> NaiveFilter(const std::vector<float>& logits,
                                                    const SamplingParams& params) {
  std::vector<std::pair<int32_t, double>> kept;
  for (size_t i = 0; i < logits.size(); ++i) {
    kept.emplace_back(static_cast<int32_t>(i), std::exp(static_cast<double>(logits[i]) /
                                                        static_cast<double>(params.temperature)));
  }
  const auto normalise = [&] {
    double total = 0;
    for (const auto& [token, p] : kept) {
      total += p;
    }
    for (auto& [token, p] : kept) {
      p /= total;
    }
  };
  const auto cut_at_mass = [&](double mass) {
    double sum = 0;
    size_t count = 0;
    while (count < kept.size() && (count == 0 || sum < mass)) {
      sum += kept[count++].second;
    }
    kept.resize(count);
  };
  const auto likelier = [](const auto& a, const auto& b) { return a.second > b.second; };
  normalise();
  std::stable_sort(kept.begin(), kept.end(), likelier);
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < kept.size()) {
    kept.resize(static_cast<size_t>(params.top_k));
    normalise();
  }
  if (params.typical_p < 1) {
    double entropy = 0;
    for (const auto& [token, p] : kept) {
      entropy -= p * std::log(p);
    }
    std::stable_sort(kept.begin(), kept.end(), [&](const auto& a, const auto& b) {
      return std::abs(-std::log(a.second) - entropy) < std::abs(-std::log(b.second) - entropy);
    });
    cut_at_mass(static_cast<double>(params.typical_p));
    normalise();
    std::stable_sort(kept.begin(), kept.end(), likelier);
  }
  if (params.top_p < 1) {
    cut_at_mass(static_cast<double>(params.top_p));
    normalise();
  }
  if (params.min_p > 0) {
    const double least = static_cast<double>(params.min_p) * kept[0].second;
    kept.erase(std::remove_if(kept.begin(), kept.end(),
                              [&](const auto& item) { return item.second < least; }),
               kept.end());
    normalise();
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

}  // namespace evenflow
