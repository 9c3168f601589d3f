#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/math/activations.h"
#include "kernels/math/rotary.h"

#include "tests/kernels/cpu_test_support.h"

namespace evenflow {
namespace {

struct Function {
  const char* name;
  float (*function)(float);
  double (*reference)(double);
};

const Function kFunctions[] = {
    {"sigmoid", Sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }},
    {"silu", Silu, [](double x) { return x / (1 + std::exp(-x)); }},
    {"relu", Relu, [](double x) { return x > 0 ? x : 0; }},
    {"elu1", Elu1, [](double x) { return x > 0 ? x + 1 : std::exp(x); }},
    {"softplus", Softplus, [](double x) { return x > 30 ? x : std::log1p(std::exp(x)); }},
    {"logsigmoid", LogSigmoid, [](double x) { return x < -30 ? x : -std::log1p(std::exp(-x)); }},
};

TEST(ActivationsTest, EqualTheirFormulasOverTheWholeRange) {
  std::vector<float> inputs;
  for (float x = 1e-6f; x < 1e30f; x *= 1.1f) {
    inputs.push_back(x);
    inputs.push_back(-x);
  }
  inputs.push_back(0);
  for (const Function& f : kFunctions) {
    SCOPED_TRACE(f.name);
    std::vector<float> actual;
    std::vector<double> expected;
    for (const float x : inputs) {
      actual.push_back(f.function(x));
      expected.push_back(f.reference(x));
    }
    // exp, log1p, a sum, a quotient and a product, each within a unit.
    test::ExpectUlps(actual, expected, 5);
  }
}

TEST(ActivationsTest, NanStaysNan) {
  for (const Function& f : kFunctions) {
    EXPECT_TRUE(std::isnan(f.function(std::numeric_limits<float>::quiet_NaN()))) << f.name;
  }
}

// The reference: the same product and remainder in 113 bits.
long double ExactAngle(int64_t position, double frequency) {
  using Wide = __float128;
  // 2 pi to 34 digits, as a sum of doubles.
  const Wide two_pi = static_cast<Wide>(6.283185307179586232) +
                      static_cast<Wide>(2.449293598294706414e-16) +
                      static_cast<Wide>(-5.989539619436679332e-33);
  const Wide angle = static_cast<Wide>(position) * static_cast<Wide>(frequency);
  Wide turns = angle / two_pi;
  turns = static_cast<Wide>(static_cast<int64_t>(turns + static_cast<Wide>(0.5)));
  return static_cast<long double>(angle - turns * two_pi);
}

TEST(RotaryTest, AnglesAreExactAtEveryPosition) {
  constexpr int kDim = 64;
  for (const int64_t position :
       {int64_t{0}, int64_t{1}, int64_t{12345}, int64_t{1000000007}, int64_t{1000000000000}}) {
    for (int i = 0; i < kDim / 2; ++i) {
      const double frequency = RotaryFrequency(10000, i, kDim);
      const auto expected = static_cast<double>(ExactAngle(position, frequency));
      const float angle = RotaryAngle(position, frequency);
      // Compared on the circle: -pi and pi are the same place. Rounding to float costs half a unit.
      EXPECT_NEAR(std::remainder(angle - expected, 2 * M_PI), 0, 0.5 * test::kEps * M_PI)
          << position << ' ' << i;
    }
  }
}

TEST(RotaryTest, FrequenciesFollowTheFormula) {
  EXPECT_EQ(RotaryFrequency(10000, 0, 64), 1.0);
  EXPECT_DOUBLE_EQ(RotaryFrequency(10000, 16, 64), 0.01);
  EXPECT_DOUBLE_EQ(RotaryFrequency(10000, 8, 64), 0.1);
}

}  // namespace
}  // namespace evenflow
