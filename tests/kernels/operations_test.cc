// Embed, Norm, MlpActivation and MemoryOutput against their formulas in double.
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/bandwidth.h"

#include "tests/kernels/cpu_test_support.h"

namespace evenflow {
namespace {

using test::MatrixOf;
using test::RandomFloats;

double DoubleSilu(double x) {
  return x / (1 + std::exp(-x));
}

TEST(EmbedTest, CopiesTheRowsOfTheTokens) {
  constexpr int kDim = 10;
  const std::vector<float> table = RandomFloats(7 * kDim, 1);
  std::vector<uint16_t> bf16;
  for (const float value : table) {
    bf16.push_back(test::ToBf16(value));
  }
  CpuStep step = test::StepOf(3);
  step.tokens = {6, 0, 6};
  WorkerPool pool(2);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    std::vector<float> out(3 * (kDim + 2), -1);
    const bool wide = dtype == DType::kF32;
    const void* const data = wide ? static_cast<const void*>(table.data()) : bf16.data();
    CpuEmbed({.table = {data, dtype, 7, kDim}, .out = MatrixOf(out, kDim + 2, 1)}, step, pool);
    for (size_t token = 0; token < 3; ++token) {
      EXPECT_EQ(out[token * (kDim + 2)], -1);
      for (size_t i = 0; i < kDim; ++i) {
        const size_t from = static_cast<size_t>(step.tokens[token]) * kDim + i;
        EXPECT_EQ(out[token * (kDim + 2) + 1 + i], wide ? table[from] : test::FromBf16(bf16[from]));
      }
    }
  }
}

struct NormCase {
  NormKind kind;
  bool weight, bias, logits;
};

TEST(NormTest, EqualsTheFormula) {
  constexpr int kTokens = 5;
  constexpr int kDim = 77;
  constexpr float kEpsilon = 1e-2f;  // large enough to show
  const std::vector<float> weight = RandomFloats(kDim, 2);
  const std::vector<float> bias = RandomFloats(kDim, 3);
  WorkerPool pool(2);
  for (const NormCase& c :
       {NormCase{NormKind::kRms, true, false, false}, NormCase{NormKind::kRms, false, false, true},
        NormCase{NormKind::kLayer, true, true, false},
        NormCase{NormKind::kLayer, false, false, true}}) {
    std::vector<float> x = RandomFloats(kTokens * kDim, 4, 0.1f);
    CpuStep step = test::StepOf(kTokens);
    step.logit_tokens = {1, 4};
    const size_t rows = c.logits ? 2 : kTokens;
    std::vector<double> expected;
    std::vector<double> tolerance;
    for (size_t row = 0; row < rows; ++row) {
      const size_t token = c.logits ? static_cast<size_t>(step.logit_tokens[row]) : row;
      double mean = 0;
      for (size_t i = 0; c.kind == NormKind::kLayer && i < kDim; ++i) {
        mean += x[token * kDim + i] / double{kDim};
      }
      double squares = 0;
      for (size_t i = 0; i < kDim; ++i) {
        squares += std::pow(x[token * kDim + i] - mean, 2) / kDim;
      }
      const double root = std::sqrt(squares + kEpsilon);
      for (size_t i = 0; i < kDim; ++i) {
        const double w = c.weight ? weight[i] : 1;
        const double b = c.bias ? bias[i] : 0;
        expected.push_back((x[token * kDim + i] - mean) / root * w + b);
        // Sums of 77 non-negative terms and of the mean: some ten roundings; x - mean cancels, so
        // the bound is on |x| + |mean|.
        tolerance.push_back(
            16 * test::kEps *
            ((std::fabs(x[token * kDim + i]) + std::fabs(mean)) / root * std::fabs(w) +
             std::fabs(b)));
      }
    }
    std::vector<float> y(rows * kDim);
    NormArgs args;
    args.x = MatrixOf(x, kDim);
    args.y = MatrixOf(y, kDim);
    args.dim = kDim;
    args.kind = c.kind;
    args.weight = c.weight ? weight.data() : nullptr;
    args.bias = c.bias ? bias.data() : nullptr;
    args.eps = kEpsilon;
    args.tokens = c.logits ? TokenSet::kLogits : TokenSet::kAll;
    CpuNorm(args, step, pool);
    test::ExpectClose(y, expected, tolerance);
    if (!c.logits) {
      args.y = args.x;
      CpuNorm(args, step, pool);
      EXPECT_EQ(x, y) << "in place";
    }
  }
}

TEST(NormTest, NanStaysInItsToken) {
  WorkerPool pool(1);
  std::vector<float> x(2 * 20, 1.0f);
  x[3] = NAN;
  NormArgs args;
  args.x = args.y = MatrixOf(x, 20);
  args.dim = 20;
  CpuNorm(args, test::StepOf(2), pool);
  for (size_t i = 0; i < 40; ++i) {
    EXPECT_EQ(std::isnan(x[i]), i < 20) << i;
  }
}

TEST(MlpActivationTest, EqualsTheFormula) {
  constexpr int kSize = 700;
  constexpr int kTokens = 3;
  std::vector<float> gate_up = RandomFloats(kTokens * (2 * kSize + 3), 5);
  std::vector<float> y(kTokens * kSize);
  std::vector<double> expected;
  for (size_t token = 0; token < kTokens; ++token) {
    for (size_t i = 0; i < kSize; ++i) {
      const float* const gate = &gate_up[token * (2 * kSize + 3) + 3 + i];
      expected.push_back(DoubleSilu(gate[0]) * gate[kSize]);
    }
  }
  WorkerPool pool(2);
  CpuMlpActivation(
      {.gate_up = MatrixOf(gate_up, 2 * kSize + 3, 3), .y = MatrixOf(y, kSize), .size = kSize},
      test::StepOf(kTokens), pool);
  test::ExpectUlps(y, expected, 6);  // silu within 5, a product
}

TEST(NormTest, MapsChannels) {
  constexpr int kTokens = 5;
  constexpr int kDim = 77;
  const std::vector<float> weight = RandomFloats(kDim, 2);
  const std::vector<float> bias = RandomFloats(kDim, 3);
  std::vector<float> x = RandomFloats(kTokens * kDim, 4, 3);
  WorkerPool pool(2);
  for (const NormKind kind : {NormKind::kDyT, NormKind::kDerf}) {
    std::vector<float> y(kTokens * kDim);
    CpuNorm({.x = MatrixOf(x, kDim),
             .y = MatrixOf(y, kDim),
             .dim = kDim,
             .kind = kind,
             .weight = weight.data(),
             .bias = bias.data(),
             .alpha = 0.75f,
             .shift = -0.25f},
            test::StepOf(kTokens), pool);
    std::vector<double> expected, tolerance;
    for (size_t i = 0; i < x.size(); ++i) {
      const double z = 0.75 * double{x[i]};
      const double mapped = kind == NormKind::kDyT ? std::tanh(z) : std::erf(z - 0.25);
      expected.push_back(mapped * weight[i % kDim] + bias[i % kDim]);
      // The argument is rounded twice at slopes of up to 1.2, the function and the result once.
      tolerance.push_back(6 * test::kEps *
                          (std::fabs(weight[i % kDim]) + std::fabs(bias[i % kDim])));
    }
    test::ExpectClose(y, expected, tolerance);
  }
}

struct OutputCase {
  bool normalizer, weight;
  Activation gate;
};

TEST(MemoryOutputTest, EqualsTheFormula) {
  constexpr int kTokens = 4;
  constexpr int kHeads = 3;
  constexpr int kDim = 33;
  constexpr float kEpsilon = 1e-3f;
  constexpr size_t kWidth = kHeads * kDim;
  const std::vector<float> weight = RandomFloats(kDim, 6);
  WorkerPool pool(2);
  for (const OutputCase& c :
       {OutputCase{false, true, Activation::kSilu}, OutputCase{true, true, Activation::kNone},
        OutputCase{false, false, Activation::kSigmoid},
        OutputCase{true, false, Activation::kElu1}}) {
    const size_t stride = kDim + (c.normalizer ? 1 : 0);
    const std::vector<float> o = RandomFloats(kTokens * kHeads * stride, 7);
    std::vector<float> gate = RandomFloats(kTokens * kWidth, 8);
    const bool gated = c.gate != Activation::kNone;
    std::vector<double> expected;
    for (size_t head = 0; head < kTokens * kHeads; ++head) {
      const float* const x = &o[head * stride];
      const double scale = c.normalizer ? 1 / (x[kDim] + 1e-10) : 1;
      double squares = 0;
      for (size_t i = 0; i < kDim; ++i) {
        squares += x[i] * scale * x[i] * scale / kDim;
      }
      for (size_t i = 0; i < kDim; ++i) {
        const double g = gate[head * kDim + i];
        const double factor = !gated                           ? 1
                              : c.gate == Activation::kSilu    ? DoubleSilu(g)
                              : c.gate == Activation::kSigmoid ? 1 / (1 + std::exp(-g))
                              : g > 0                          ? g + 1
                                                               : std::exp(g);
        expected.push_back(x[i] * scale / std::sqrt(squares + kEpsilon) *
                           (c.weight ? weight[i] : 1) * factor);
      }
    }
    std::vector<float> y(kTokens * kWidth);
    MemoryOutputArgs args;
    args.o = o.data();
    args.heads = kHeads;
    args.value_dim = kDim;
    args.normalizer = c.normalizer;
    args.weight = c.weight ? weight.data() : nullptr;
    args.eps = kEpsilon;
    args.gate = gated ? MatrixOf(gate, kWidth) : Matrix{};
    args.gate_activation = c.gate;
    args.y = MatrixOf(y, kWidth);
    CpuMemoryOutput(args, test::StepOf(kTokens), pool);
    // Squares are summed without cancellation: a dozen roundings in all, and five of the gate.
    test::ExpectUlps(y, expected, 20);
  }
}

// Mamba-2's: groups of heads, what the convolution left added, the norm anywhere.
TEST(MemoryOutputTest, AddsTheSkipAndNormsWhereItIsAsked) {
  constexpr int kTokens = 4;
  constexpr int kGroups = 3;
  constexpr int kDim = 35;
  constexpr float kEpsilon = 1e-2f;
  constexpr size_t kWidth = kGroups * kDim;
  const std::vector<float> o = RandomFloats(kTokens * kWidth, 21);
  const std::vector<float> skip_weight = RandomFloats(kWidth, 22);
  const std::vector<float> weight = RandomFloats(kWidth, 23);
  std::vector<float> skip = RandomFloats(kTokens * kWidth, 24);
  std::vector<float> gate = RandomFloats(kTokens * kWidth, 25);
  WorkerPool pool(2);
  for (const OutputNorm norm :
       {OutputNorm::kBeforeGate, OutputNorm::kAfterGate, OutputNorm::kNone}) {
    std::vector<double> expected, tolerance;
    for (size_t group = 0; group < kTokens * kGroups; ++group) {
      double squares = 0;
      std::vector<double> x, size;
      for (size_t i = 0; i < kDim; ++i) {
        const size_t at = group * kDim + i;
        const double added = double{skip_weight[at % kWidth]} * double{skip[at]};
        x.push_back(o[at] + added);
        size.push_back(std::fabs(o[at]) + std::fabs(added));
        const double normed = norm == OutputNorm::kAfterGate ? x[i] * DoubleSilu(gate[at]) : x[i];
        squares += normed * normed / kDim;
      }
      const bool is_none = norm == OutputNorm::kNone;
      const double factor = is_none ? 1 : 1 / std::sqrt(squares + kEpsilon);
      for (size_t i = 0; i < kDim; ++i) {
        const size_t at = group * kDim + i;
        const double rest = DoubleSilu(gate[at]) * factor * (is_none ? 1 : weight[at % kWidth]);
        expected.push_back(x[i] * rest);
        // As above; o and the skip may cancel.
        tolerance.push_back(20 * test::kEps * size[i] * std::fabs(rest));
      }
    }
    std::vector<float> y(kTokens * kWidth);
    MemoryOutputArgs args;
    args.o = o.data();
    args.heads = kGroups;
    args.value_dim = kDim;
    args.skip = MatrixOf(skip, kWidth);
    args.skip_weight = skip_weight.data();
    args.norm = norm;
    args.weight = norm == OutputNorm::kNone ? nullptr : weight.data();
    args.weight_per_head = true;
    args.eps = kEpsilon;
    args.gate = MatrixOf(gate, kWidth);
    args.gate_activation = Activation::kSilu;
    args.y = MatrixOf(y, kWidth);
    CpuMemoryOutput(args, test::StepOf(kTokens), pool);
    test::ExpectClose(y, expected, tolerance);
  }
}

TEST(BandwidthTest, IsWithinReason) {
  const double bytes_per_second = ReadBandwidth(1).Measure();
  EXPECT_GT(bytes_per_second, 1e8);
  EXPECT_LT(bytes_per_second, 1e12);
}

}  // namespace
}  // namespace evenflow
