// Queries, keys, values and gates against their formulas in double.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/cpu_test_support.h"

namespace evenflow {
namespace {

using test::RandomFloats;
using Doubles = std::vector<double>;

constexpr int kTokens = 3;
constexpr int kDim = 12;

// One map's weights.
struct MapWeights {
  std::vector<float> w1 = RandomFloats(kDim * kDim, 11, 0.3f);
  std::vector<float> b1 = RandomFloats(kDim, 12);
  std::vector<float> w2 = RandomFloats(kDim * kDim, 13, 0.3f);
  std::vector<float> b2 = RandomFloats(kDim, 14);
};

Doubles Linear(const std::vector<float>& w, const std::vector<float>* b, const Doubles& x) {
  Doubles y(kDim);
  for (size_t i = 0; i < kDim; ++i) {
    y[i] = b == nullptr ? 0 : (*b)[i];
    for (size_t j = 0; j < kDim; ++j) {
      y[i] += w[i * kDim + j] * x[j];
    }
  }
  return y;
}

Doubles Map(FeatureMap map, const MapWeights& m, const Doubles& x) {
  Doubles y = x;
  switch (map) {
    case FeatureMap::kIdentity:
      return y;
    case FeatureMap::kSilu:
      for (double& v : y) {
        v /= 1 + std::exp(-v);
      }
      return y;
    case FeatureMap::kRelu:
      for (double& v : y) {
        v = std::max(v, 0.0);
      }
      return y;
    case FeatureMap::kElu1:
      for (double& v : y) {
        v = v > 0 ? v + 1 : std::exp(v);
      }
      return y;
    case FeatureMap::kElementwiseProduct: {
      y = Linear(m.w1, &m.b1, x);
      const Doubles second = Linear(m.w2, &m.b2, x);
      for (size_t i = 0; i < kDim; ++i) {
        y[i] *= second[i];
      }
      return y;
    }
    case FeatureMap::kT2R:
      return Map(FeatureMap::kRelu, m, Linear(m.w1, nullptr, x));
    case FeatureMap::kHedgehog: {
      y = Linear(m.w1, &m.b1, x);
      for (size_t i = 0; i < kDim; ++i) {
        y.push_back(std::exp(-2 * y[i]));
      }
      double sum = 0;
      for (size_t i = 0; i < 2 * kDim; ++i) {
        y[i] = i < kDim ? std::exp(2 * y[i]) : y[i];
        sum += y[i];
      }
      for (double& v : y) {
        v /= sum;
      }
      return y;
    }
    case FeatureMap::kDpfp: {
      Doubles u;
      for (const double v : x) {
        u.push_back(std::max(v, 0.0));
      }
      for (const double v : x) {
        u.push_back(-std::max(v, 0.0));
      }
      y.clear();
      for (size_t j = 1; j <= 4; ++j) {
        Doubles rolled = u;
        std::rotate(rolled.begin(), rolled.end() - static_cast<int64_t>(j), rolled.end());
        for (size_t i = 0; i < u.size(); ++i) {
          y.push_back(u[i] * rolled[i]);
        }
      }
      return y;
    }
  }
  return y;
}

void Norm(HeadNorm norm, Doubles& x) {
  double sum = 0;
  double squares = 0;
  for (const double v : x) {
    sum += v;
    squares += v * v;
  }
  const double divisor = norm == HeadNorm::kL2       ? std::sqrt(squares + 1e-6)
                         : norm == HeadNorm::kSum    ? sum
                         : norm == HeadNorm::kSumEps ? sum + 1e-4
                                                     : 1;
  for (double& v : x) {
    v /= divisor;
  }
}

void Rotate(double base, int64_t position, Doubles& x) {
  const size_t half = x.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    const long double frequency =
        std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(x.size()));
    const auto angle = static_cast<double>(std::fmod(static_cast<long double>(position) * frequency,
                                                     6.283185307179586476925286766559L));
    const double low = x[i];
    x[i] = low * std::cos(angle) - x[i + half] * std::sin(angle);
    x[i + half] = x[i + half] * std::cos(angle) + low * std::sin(angle);
  }
}

struct Case {
  std::string name;
  FeatureMap map = FeatureMap::kIdentity;
  HeadNorm norm = HeadNorm::kNone;
  float rotary_base = 0;
  int64_t position = 0;
  int mapped = kDim;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

class MemoryInputsTest : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(
    Maps, MemoryInputsTest,
    testing::Values(Case{"identity"}, Case{"silu", FeatureMap::kSilu},
                    Case{"relu", FeatureMap::kRelu}, Case{"elu1", FeatureMap::kElu1},
                    Case{"product", FeatureMap::kElementwiseProduct}, Case{"t2r", FeatureMap::kT2R},
                    Case{"hedgehog", FeatureMap::kHedgehog, HeadNorm::kNone, 0, 0, 2 * kDim},
                    Case{"dpfp", FeatureMap::kDpfp, HeadNorm::kNone, 0, 0, 8 * kDim},
                    Case{"silu_l2", FeatureMap::kSilu, HeadNorm::kL2},
                    Case{"elu1_sum", FeatureMap::kElu1, HeadNorm::kSum},
                    Case{"elu1_sum_eps", FeatureMap::kElu1, HeadNorm::kSumEps},
                    Case{"rotary_0", FeatureMap::kIdentity, HeadNorm::kNone, 10000, 0},
                    Case{"rotary_1e9", FeatureMap::kIdentity, HeadNorm::kNone, 10000, 999999999},
                    Case{"rotary_1e12", FeatureMap::kIdentity, HeadNorm::kNone, 10000,
                         1000000000000}),
    [](const auto& instance) { return instance.param.name; });

TEST_P(MemoryInputsTest, QueriesAndKeysEqualTheFormula) {
  const Case& c = GetParam();
  constexpr int kQueryHeads = 4;
  constexpr int kKeyHeads = 2;
  constexpr size_t kStride = (kQueryHeads + 2 * kKeyHeads) * kDim + 5;
  const MapWeights weights;
  std::vector<float> projected = RandomFloats(kTokens * kStride, 21);
  std::vector<float> q(static_cast<size_t>(kTokens * kQueryHeads * c.mapped));
  std::vector<float> k(static_cast<size_t>(kTokens * kKeyHeads * c.mapped));
  std::vector<float> v(kTokens * kKeyHeads * (kDim + 1));
  MemoryInputsArgs args;
  args.projected = test::MatrixOf(projected, kStride);
  args.q_column = 5;
  args.k_column = 5 + kQueryHeads * kDim;
  args.v_column = args.k_column + kKeyHeads * kDim;
  args.raw_key_dim = kDim;
  args.raw_value_dim = kDim;
  const bool has_bias = c.map != FeatureMap::kT2R;
  args.q_map = {c.map, weights.w1.data(), has_bias ? weights.b1.data() : nullptr, weights.w2.data(),
                weights.b2.data()};
  args.k_map = args.q_map;
  args.q_norm = args.k_norm = c.norm;
  args.rotary_base = c.rotary_base;
  args.q_scale = 0.25f;
  args.ones_column = true;
  args.shape = {.heads = kKeyHeads,
                .query_heads = kQueryHeads,
                .key_heads = kKeyHeads,
                .value_heads = kKeyHeads,
                .key_dim = c.mapped,
                .value_dim = kDim + 1};
  args.q = q.data();
  args.k = k.data();
  args.v = v.data();
  WorkerPool pool(2);
  CpuMemoryInputs(args, test::StepOf(kTokens, c.position), pool);

  const auto check = [&](const std::vector<float>& actual, int heads, int column, double scale) {
    Doubles expected;
    Doubles tolerance;
    for (int token = 0; token < kTokens; ++token) {
      for (int head = 0; head < heads; ++head) {
        const auto begin =
            projected.begin() + static_cast<int64_t>(token * kStride) + column + head * kDim;
        Doubles x = Map(c.map, weights, Doubles(begin, begin + kDim));
        Norm(c.norm, x);
        if (c.rotary_base > 0) {
          Rotate(c.rotary_base, c.position + token, x);
        }
        double largest = 0;
        for (const double value : x) {
          largest = std::max(largest, std::fabs(value));
        }
        for (const double value : x) {
          expected.push_back(value * scale);
          // Sums over a head and angles up to pi in float: within 32 units of the head's largest
          // value. Rows of W have a sum of magnitudes of about 3, so products stay within that too.
          tolerance.push_back(32 * test::kEps * scale * largest);
        }
      }
    }
    test::ExpectClose(actual, expected, tolerance);
  };
  check(q, kQueryHeads, args.q_column, 0.25);
  check(k, kKeyHeads, args.k_column, 1);
  for (size_t head = 0; head < kTokens * kKeyHeads; ++head) {
    EXPECT_EQ(v[head * (kDim + 1) + kDim], 1);
    for (size_t i = 0; i < kDim; ++i) {
      EXPECT_EQ(v[head * (kDim + 1) + i],
                projected[head / kKeyHeads * kStride + static_cast<size_t>(args.v_column) +
                          head % kKeyHeads * kDim + i]);
    }
  }
}

TEST(MemoryGatesTest, EqualTheFormulas) {
  constexpr size_t kHeads = 4;
  constexpr size_t kStride = 3 * kDim + 2 * kHeads;
  std::vector<float> projected = RandomFloats(kTokens * kStride, 31, 3);
  const std::vector<float> rate{-0.5f, -1, -8, -0.01f};
  const std::vector<float> bias = RandomFloats(kHeads, 32);
  std::vector<float> q(kTokens * kDim), k(kTokens * kDim), v(kTokens * kDim);
  std::vector<float> log_decay(kTokens * kHeads), beta(kTokens * kHeads);
  MemoryInputsArgs args;
  args.projected = test::MatrixOf(projected, kStride);
  args.k_column = kDim;
  args.v_column = 2 * kDim;
  args.decay_column = 3 * kDim;
  args.beta_column = 3 * kDim + kHeads;
  args.raw_key_dim = args.raw_value_dim = kDim;
  args.decay.rate = rate.data();
  args.decay.bias = bias.data();
  args.beta_scale = 2;
  args.shape = {.heads = kHeads,
                .query_heads = 1,
                .key_heads = 1,
                .value_heads = 1,
                .key_dim = kDim,
                .value_dim = kDim};
  args.q = q.data();
  args.k = k.data();
  args.v = v.data();
  args.log_decay = log_decay.data();
  args.beta = beta.data();
  WorkerPool pool(1);
  CpuMemoryInputs(args, test::StepOf(kTokens), pool);
  Doubles expected_decay;
  Doubles expected_beta;
  for (size_t token = 0; token < kTokens; ++token) {
    for (size_t head = 0; head < kHeads; ++head) {
      const float* const x = &projected[token * kStride + 3 * kDim + head];
      expected_decay.push_back(rate[head] * std::log1p(std::exp(double{x[0] + bias[head]})));
      expected_beta.push_back(2 / (1 + std::exp(-double{x[kHeads]})));
    }
  }
  test::ExpectUlps(log_decay, expected_decay, 6);
  test::ExpectUlps(beta, expected_beta, 6);

  args.beta_column = -1;
  CpuMemoryInputs(args, test::StepOf(kTokens), pool);
  EXPECT_EQ(beta, std::vector<float>(kTokens * kHeads, 2));
}

// g of the gate, in double.
double ExpectedDecay(const DecayGateArgs& args, double rate, double bias, double x) {
  const auto sigmoid = [](double z) { return 1 / (1 + std::exp(-z)); };
  switch (args.gate) {
    case DecayGate::kSoftplus:
      return rate * std::log1p(std::exp(x + bias));
    case DecayGate::kLogSigmoid:
      return std::max(std::log(sigmoid(x)) / 16, double{args.low});
    case DecayGate::kBounded:
      return args.low * sigmoid(-rate * (x + bias));
    case DecayGate::kLowerBounded:
      return std::log(bias + (1 - bias) * sigmoid(x));
    case DecayGate::kTimeStep:
      return rate * std::clamp(std::log1p(std::exp(x + bias)), double{args.low}, double{args.high});
  }
  return 0;
}

// Of single channels, and what gates do to keys and values.
TEST(MemoryGatesTest, EveryGateEqualsItsFormula) {
  constexpr size_t kHeads = 2;
  constexpr size_t kWidth = kHeads * kDim;
  std::vector<float> projected = RandomFloats(kTokens * 3 * kWidth, 41, 3);
  const std::vector<float> rate{-0.5f, -3};
  std::vector<float> bias = RandomFloats(kWidth, 42);
  std::transform(bias.begin(), bias.end(), bias.begin(),
                 [](float b) { return std::min(0.9f, std::fabs(b)); });  // a lower bound, too
  WorkerPool pool(1);
  for (const DecayGateArgs& gate :
       {DecayGateArgs{DecayGate::kSoftplus}, DecayGateArgs{DecayGate::kLogSigmoid, {}, {}, -0.05f},
        DecayGateArgs{DecayGate::kBounded, {}, {}, -5}, DecayGateArgs{DecayGate::kLowerBounded},
        DecayGateArgs{DecayGate::kTimeStep, {}, {}, 0.25f, 2}}) {
    SCOPED_TRACE(static_cast<int>(gate.gate));
    const bool steps = gate.gate == DecayGate::kTimeStep;
    const size_t channels = steps ? 1 : kDim;
    std::vector<float> q(kTokens * kWidth), k(kTokens * kWidth), v(kTokens * kWidth);
    std::vector<float> log_decay(kTokens * kHeads * channels);
    MemoryInputsArgs args;
    args.projected = test::MatrixOf(projected, 3 * kWidth);
    args.k_column = gate.gate == DecayGate::kLowerBounded ? -1 : 0;
    args.v_column = kWidth;
    args.decay_column = 2 * kWidth;
    args.raw_key_dim = args.raw_value_dim = kDim;
    args.decay = gate;
    args.decay.rate = rate.data();
    args.decay.bias = bias.data();
    args.decay_channels = static_cast<int>(channels);
    args.shape = {kHeads, kHeads, kHeads, kHeads, kDim, kDim};
    args.q = q.data();
    args.k = k.data();
    args.v = v.data();
    args.log_decay = log_decay.data();
    CpuMemoryInputs(args, test::StepOf(kTokens), pool);

    Doubles decays, tolerance, keys, key_tolerance, values;
    for (size_t token = 0; token < kTokens; ++token) {
      const float* const x = &projected[token * 3 * kWidth];
      for (size_t i = 0; i < kHeads * channels; ++i) {
        const size_t head = i / channels;
        decays.push_back(ExpectedDecay(gate, rate[head], bias[i], x[2 * kWidth + i]));
        // A logarithm near 1 keeps the roundings of what it is taken of; a rate and a bias of up to
        // 3 and 1 amplify those of a sigmoid's argument.
        tolerance.push_back(test::kEps * (40 * std::fabs(decays.back()) + 4));
        keys.push_back(gate.gate == DecayGate::kLowerBounded ? 1 - std::exp(decays.back()) : x[i]);
        key_tolerance.push_back(tolerance.back());
      }
      for (size_t i = 0; i < kWidth; ++i) {
        const size_t head = i / kDim;
        const double step = decays[token * kHeads * channels + (steps ? head : 0)] / rate[head];
        values.push_back((steps ? step : 1) * x[kWidth + i]);
      }
    }
    test::ExpectClose(log_decay, decays, tolerance);
    test::ExpectUlps(v, values, 8);
    if (!steps) {
      test::ExpectClose(k, keys, key_tolerance);
    }
  }
}

}  // namespace
}  // namespace evenflow
