// Steps, random numbers and comparisons for tests of the CPU's operations.
#ifndef EVENFLOW_TESTS_KERNELS_CPU_TEST_SUPPORT_H_
#define EVENFLOW_TESTS_KERNELS_CPU_TEST_SUPPORT_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/step.h"

namespace evenflow::test {

inline constexpr double kEps = std::numeric_limits<float>::epsilon();

inline std::vector<float> RandomFloats(size_t count, uint32_t seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) {
    value = normal(generator);
  }
  return values;
}

inline uint16_t ToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float FromBf16(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

inline Matrix MatrixOf(std::vector<float>& data, int64_t stride, int64_t column = 0) {
  return {data.data() + column, DType::kF32, stride};
}

// A step of the given rows; tokens are numbered from 0.
inline CpuStep StepOf(const std::vector<Row>& rows) {
  CpuStep step;
  step.rows = rows;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (int i = 0; i < rows[r].tokens; ++i) {
      step.tokens.push_back(static_cast<int32_t>(step.tokens.size()));
      step.token_row.push_back(static_cast<int32_t>(r));
      step.positions.push_back(rows[r].position + i);
    }
  }
  return step;
}

// One row of `tokens` tokens that begins at `position` in slot 0.
inline CpuStep StepOf(int tokens, int64_t position = 0) {
  return StepOf({Row{.slot = 0, .first_token = 0, .tokens = tokens, .position = position}});
}

// Compares with a tolerance for each element; prints the worst. Non-finite values must be in the
// same places.
inline void ExpectClose(const std::vector<float>& actual, const std::vector<double>& expected,
                        const std::vector<double>& tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  ASSERT_EQ(tolerance.size(), expected.size());
  size_t worst = 0;
  double worst_ratio = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::isfinite(actual[i]), std::isfinite(expected[i])) << "element " << i;
    if (!std::isfinite(expected[i])) {
      continue;
    }
    const double error = std::fabs(actual[i] - expected[i]);
    const double ratio = error == 0 ? 0 : error / tolerance[i];
    if (!(ratio <= worst_ratio)) {
      worst = i;
      worst_ratio = ratio;
    }
  }
  EXPECT_LE(worst_ratio, 1) << "element " << worst << ": " << actual[worst] << " for "
                            << expected[worst] << ", tolerance " << tolerance[worst];
}

// The same relative tolerance, in units of the last place of a float, for every element.
inline void ExpectUlps(const std::vector<float>& actual, const std::vector<double>& expected,
                       double ulps) {
  std::vector<double> tolerance(expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    tolerance[i] = ulps * kEps * std::fabs(expected[i]) + std::numeric_limits<float>::min();
  }
  ExpectClose(actual, expected, tolerance);
}

}  // namespace evenflow::test

#endif  // EVENFLOW_TESTS_KERNELS_CPU_TEST_SUPPORT_H_
