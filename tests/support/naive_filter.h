// The sampler's filters as the papers define them, by sorting everything in double precision.
#ifndef EVENFLOW_TESTS_SUPPORT_NAIVE_FILTER_H_
#define EVENFLOW_TESTS_SUPPORT_NAIVE_FILTER_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/sampling.h"

namespace evenflow {

// The tokens that temperature, top-k, typical, top-p and min-p keep, ascending, with their
// renormalised probabilities.
std::vector<std::pair<int32_t, double>> NaiveFilter(const std::vector<float>& logits,
                                                    const SamplingParams& params);

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_SUPPORT_NAIVE_FILTER_H_
