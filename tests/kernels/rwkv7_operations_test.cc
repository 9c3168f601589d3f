// The operations of RWKV-7's layers against their formulas in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/cpu_test_support.h"

namespace evenflow {
namespace {

using test::MatrixOf;
using test::RandomFloats;

double DoubleSigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

constexpr int kChannels = 300;  // more than one part
constexpr int kStreams = 3;
constexpr size_t kRingOffset = 64;

// Sessions whose slots hold, at first, what must not be read.
struct Shift {
  int rollback;
  std::vector<float> mix = RandomFloats(kStreams * kChannels, 1);
  std::vector<float> memory;
  WorkerPool pool{2};

  explicit Shift(int rollback_) : rollback(rollback_), memory(3 * SlotFloats(), NAN) {}

  size_t SlotFloats() const {
    return kRingOffset / 4 + static_cast<size_t>((1 + rollback) * kChannels);
  }

  // Tokens [first, first + count) of a sequence, one row in `slot`.
  std::vector<float> Run(const std::vector<float>& sequence, int slot, int first, int count) {
    std::vector<float> x(sequence.begin() + first * kChannels,
                         sequence.begin() + (first + count) * kChannels);
    std::vector<float> y(static_cast<size_t>(count * kStreams * kChannels));
    TokenShiftArgs args;
    args.x = MatrixOf(x, kChannels);
    args.y = MatrixOf(y, kStreams * kChannels);
    args.channels = kChannels;
    args.streams = kStreams;
    args.mix = mix.data();
    args.slots = {reinterpret_cast<std::byte*>(memory.data()), SlotFloats() * sizeof(float)};
    args.ring_offset = kRingOffset;
    args.rollback = rollback;
    const Row row{.slot = slot, .first_token = 0, .tokens = count, .position = first};
    CpuTokenShift(args, test::StepOf({row}), pool);
    return y;
  }
};

TEST(TokenShiftTest, MixesEachTokenWithTheOneBefore) {
  constexpr int kTokens = 9;
  const std::vector<float> sequence = RandomFloats(kTokens * kChannels, 2);
  Shift shift(2);
  std::vector<double> expected, tolerance;
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < kStreams * kChannels; ++i) {
      const int c = i % kChannels;
      const double x = sequence[static_cast<size_t>(t * kChannels + c)];
      const double before = t == 0 ? 0 : sequence[static_cast<size_t>((t - 1) * kChannels + c)];
      const double mix = shift.mix[static_cast<size_t>(i)];
      expected.push_back(x + (before - x) * mix);
      // Three roundings of what is no larger than these together.
      tolerance.push_back(3 * test::kEps * (std::fabs(x) + std::fabs((before - x) * mix)));
    }
  }
  test::ExpectClose(shift.Run(sequence, 1, 0, kTokens), expected, tolerance);
}

TEST(TokenShiftTest, ChunksAndRollbackChangeNoBit) {
  constexpr int kTokens = 24;
  const std::vector<float> sequence = RandomFloats(kTokens * kChannels, 3);
  const std::vector<float> rejected = RandomFloats(kTokens * kChannels, 4);
  for (const int rollback : {0, 2, 5}) {
    Shift shift(rollback);
    const std::vector<float> expected = shift.Run(sequence, 0, 0, kTokens);
    std::vector<float> outputs;
    for (int at = 0; at < kTokens;) {
      shift.Run(rejected, 2, at, std::min(rollback, kTokens - at));  // and taken back
      const int count = std::min(1 + at % 4, kTokens - at);
      const std::vector<float> y = shift.Run(sequence, 2, at, count);
      outputs.insert(outputs.end(), y.begin(), y.end());
      at += count;
    }
    EXPECT_EQ(outputs, expected) << "rollback " << rollback;
  }
}

constexpr int kTokens = 4;
constexpr int kHeads = 3;
constexpr int kKeyDim = 20;
constexpr int kValueDim = 24;
constexpr int kKeys = kHeads * kKeyDim;
constexpr int kValues = kHeads * kValueDim;

// Columns: k, rates, mixes, v.
constexpr int kWidth = 2 * kKeys + 2 * kValues;

struct KeysCase {
  HeadNorm norm;
  bool mixes;
};

TEST(GeneralizedDeltaKeysTest, EqualsTheFormula) {
  WorkerPool pool(2);
  const std::vector<float> erase_weight = RandomFloats(kKeys, 5);
  const std::vector<float> rate_weight = RandomFloats(kKeys, 6);
  const std::vector<float> bonus_weight = RandomFloats(kKeys, 7);
  const std::vector<float> q = RandomFloats(kTokens * kKeys, 8);
  std::vector<float> log_decay = RandomFloats(kTokens * kKeys, 9);
  for (float& g : log_decay) {
    g = -std::min(std::fabs(g), 0.6f);
  }
  for (const KeysCase& c : {KeysCase{HeadNorm::kL2, true}, KeysCase{HeadNorm::kUnit, true},
                            KeysCase{HeadNorm::kUnit, false}}) {
    std::vector<float> projected = RandomFloats(kTokens * kWidth, 10);
    const std::vector<float> before = projected;
    const std::vector<float> old_v = RandomFloats(kTokens * kValues, 11);
    std::vector<float> v = old_v;
    std::vector<float> first_v = RandomFloats(kTokens * kValues, 12);
    const std::vector<float> old_first = first_v;
    std::vector<float> k(2 * kTokens * kKeys), e(kTokens * kKeys);
    GeneralizedDeltaKeysArgs args;
    args.projected = MatrixOf(projected, kWidth);
    args.rate_column = kKeys;
    args.mix_column = c.mixes ? 2 * kKeys : -1;
    args.v_column = 2 * kKeys + kValues;
    args.erase_weight = erase_weight.data();
    args.rate_weight = rate_weight.data();
    args.bonus_weight = bonus_weight.data();
    args.norm = c.norm;
    args.shape = {kHeads, kHeads, kHeads, kHeads, kKeyDim, kValueDim};
    args.q = q.data();
    args.log_decay = log_decay.data();
    args.v = v.data();
    args.first_v = first_v.data();
    args.k = k.data();
    args.e = e.data();
    CpuGeneralizedDeltaKeys(args, test::StepOf(kTokens), pool);

    std::vector<double> keys, erased, values, bonuses, bonus_tolerance;
    for (size_t item = 0; item < kTokens * kHeads; ++item) {
      const size_t token = item / kHeads;
      const size_t head = item % kHeads;
      const float* const row = &before[token * kWidth];
      const auto raw = [&](size_t i) {
        const size_t channel = head * kKeyDim + i;
        return static_cast<double>(row[channel]) * erase_weight[channel];
      };
      double squares = 0;
      for (size_t i = 0; i < kKeyDim; ++i) {
        squares += raw(i) * raw(i);
      }
      const double norm = std::sqrt(squares + (c.norm == HeadNorm::kL2 ? 1e-6 : 0));
      std::vector<double> written;
      double bonus = 0, bonus_size = 0;
      for (size_t i = 0; i < kKeyDim; ++i) {
        const size_t channel = head * kKeyDim + i;
        const double a = DoubleSigmoid(row[kKeys + channel]);
        keys.push_back(a * raw(i) / norm);
        erased.push_back(raw(i) / norm *
                         std::exp(-static_cast<double>(log_decay[item * kKeyDim + i])));
        written.push_back(row[channel] * (1 + (a - 1) * rate_weight[channel]));
        const double term = q[item * kKeyDim + i] * written[i] * bonus_weight[channel];
        bonus += term;
        bonus_size += std::fabs(term) +
                      std::fabs(q[item * kKeyDim + i] * row[channel] * bonus_weight[channel]);
      }
      keys.insert(keys.end(), written.begin(), written.end());
      for (size_t i = 0; i < kValueDim; ++i) {
        const size_t at = item * kValueDim + i;
        const double mix = c.mixes ? DoubleSigmoid(row[2 * kKeys + head * kValueDim + i]) : 0;
        const double value = old_v[at] + (static_cast<double>(old_first[at]) - old_v[at]) * mix;
        values.push_back(value);
        bonuses.push_back(bonus * value);
        bonus_tolerance.push_back(2 * kKeyDim * test::kEps * bonus_size *
                                  (std::fabs(old_v[at]) + std::fabs(old_first[at])));
      }
    }
    // A sigmoid, an exponential and some products and roots of them; values and keys may cancel in
    // one subtraction of numbers of about 1.
    std::vector<double> tolerance(keys.size(), 0);
    for (size_t i = 0; i < keys.size(); ++i) {
      tolerance[i] = 16 * test::kEps * (std::fabs(keys[i]) + 2);
    }
    test::ExpectClose(k, keys, tolerance);
    test::ExpectUlps(e, erased, 16);
    tolerance.assign(values.size(), 0);
    for (size_t i = 0; i < values.size(); ++i) {
      tolerance[i] = 8 * test::kEps * (std::fabs(old_v[i]) + std::fabs(old_first[i]));
    }
    test::ExpectClose(v, values, tolerance);
    EXPECT_EQ(first_v, c.mixes ? old_first : old_v);
    std::vector<float> left;
    for (size_t t = 0; t < kTokens; ++t) {
      const auto begin =
          projected.begin() + static_cast<ptrdiff_t>(t * kWidth + 2 * kKeys + kValues);
      left.insert(left.end(), begin, begin + kValues);
    }
    test::ExpectClose(left, bonuses, bonus_tolerance);
  }
}

TEST(MemoryOutputTest, NormsGroupsThenAddsBiasAndSkip) {
  constexpr float kEpsilon = 1e-2f;
  const std::vector<float> o = RandomFloats(kTokens * kValues, 13);
  const std::vector<float> weight = RandomFloats(kValues, 14);
  const std::vector<float> bias = RandomFloats(kValues, 15);
  std::vector<float> skip = RandomFloats(kTokens * kValues, 16);
  std::vector<float> gate = RandomFloats(kTokens * kValues, 17);
  std::vector<float> y(kTokens * kValues);
  MemoryOutputArgs args;
  args.o = o.data();
  args.heads = kHeads;
  args.value_dim = kValueDim;
  args.norm = OutputNorm::kGroup;
  args.weight = weight.data();
  args.weight_per_head = true;
  args.bias = bias.data();
  args.skip = MatrixOf(skip, kValues);
  args.eps = kEpsilon;
  args.gate = MatrixOf(gate, kValues);
  args.y = MatrixOf(y, kValues);
  WorkerPool pool(2);
  CpuMemoryOutput(args, test::StepOf(kTokens), pool);
  std::vector<double> expected, tolerance;
  for (size_t item = 0; item < kTokens * kHeads; ++item) {
    const float* const x = &o[item * kValueDim];
    double mean = 0, squares = 0;
    for (size_t i = 0; i < kValueDim; ++i) {
      mean += static_cast<double>(x[i]) / kValueDim;
    }
    for (size_t i = 0; i < kValueDim; ++i) {
      squares += (x[i] - mean) * (x[i] - mean) / kValueDim;
    }
    for (size_t i = 0; i < kValueDim; ++i) {
      const size_t column = item % kHeads * kValueDim + i;
      const size_t at = item * kValueDim + i;
      const double normed = (x[i] - mean) / std::sqrt(squares + kEpsilon) * weight[column];
      expected.push_back((normed + bias[column] + skip[at]) * gate[at]);
      // A dozen roundings of terms that may cancel.
      tolerance.push_back(12 * test::kEps * std::fabs(gate[at]) *
                          (std::fabs(normed) + std::fabs(weight[column]) + std::fabs(bias[column]) +
                           std::fabs(skip[at])));
    }
  }
  test::ExpectClose(y, expected, tolerance);
}

TEST(MlpActivationTest, SquaresWithoutAnUpProjection) {
  std::vector<float> x = RandomFloats(kTokens * kValues, 18);
  std::vector<float> y(kTokens * kValues);
  MlpActivationArgs args;
  args.gate_up = MatrixOf(x, kValues);
  args.has_up = false;
  args.y = MatrixOf(y, kValues);
  args.size = kValues;
  args.activation = Activation::kSquaredRelu;
  WorkerPool pool(2);
  CpuMlpActivation(args, test::StepOf(kTokens), pool);
  for (size_t i = 0; i < y.size(); ++i) {
    EXPECT_EQ(y[i], x[i] < 0 ? 0 : x[i] * x[i]);
  }
}

}  // namespace
}  // namespace evenflow
