// Compares what memories give with the recurrence in double precision. For tests.
#ifndef EVENFLOW_TESTS_SUPPORT_EXPECT_NEAR_H_
#define EVENFLOW_TESTS_SUPPORT_EXPECT_NEAR_H_

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/memory_reference.h"

namespace evenflow {

// Checks outputs [token, output_heads, value_dim] of tokens from `first_token` on by the norm of
// each head's error.
//
// The error of a read with a unit query is at most that of the state (Cauchy-Schwarz). Each token
// rounds the state or its part in it about once, and a read is a sum of key_dim + window products;
// such errors are independent and add like a random walk, relative to the largest state so far (a
// delta rule never amplifies them: its factor has norm 1). 2 is for what is neither.
// A bf16 state is rounded once a fold besides, by at most 2^-9 relative.
// Operands of products in bf16 are rounded by at most 2^-9 each: queries, what entries weigh and
// erase in a token's read and in a fold, the state and the inputs.
inline void ExpectNear(const MemorySetup& setup, const std::vector<float>& got,
                       const MemoryReference& expected, int first_token = 0) {
  const MemoryShape& shape = setup.shape;
  const auto dim = static_cast<size_t>(shape.value_dim);
  const auto heads = static_cast<size_t>(shape.output_heads());
  const size_t first = static_cast<size_t>(first_token) * heads;
  ASSERT_LE(first * dim + got.size(), expected.outputs.size());
  double worst = 0;
  std::string where;
  for (size_t i = 0; i < got.size() / dim; ++i) {
    double error = 0;
    for (size_t c = 0; c < dim; ++c) {
      error = std::hypot(
          error, static_cast<double>(got[i * dim + c]) - expected.outputs[(first + i) * dim + c]);
    }
    const size_t token = (first + i) / heads;
    const size_t state_head = i % heads / (heads / static_cast<size_t>(shape.heads));
    const double peak = expected.peak_norms[token * static_cast<size_t>(shape.heads) + state_head];
    const auto steps = static_cast<double>(token + 1);
    double relative = 2 * std::numeric_limits<float>::epsilon() *
                      std::sqrt(shape.key_dim + setup.window.commit + steps);
    if (setup.state_dtype == DType::kBF16) {
      relative += 2 * std::ldexp(1.0, -9) * std::sqrt(std::ceil(steps / setup.window.commit));
    }
    if (setup.activations == DType::kBF16) {
      relative += 6 * std::ldexp(1.0, -9);
    }
    const double ratio = error / (relative * peak);
    if (!(ratio <= worst)) {
      worst = ratio;
      where = "token " + std::to_string(token) + ", head " + std::to_string(i % heads) +
              ", error " + std::to_string(error) + " of " + std::to_string(peak);
    }
  }
  EXPECT_LE(worst, 1) << where;
}

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_SUPPORT_EXPECT_NEAR_H_
