// The short convolution against the sum over the whole sequence, in double.
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/cpu_test_support.h"

namespace evenflow {
namespace {

using test::RandomFloats;

constexpr int kChannels = 600;  // more than one part
constexpr size_t kRingOffset = 64;

struct Stream {
  int taps;
  int rollback;
  bool bias;
  std::vector<float> weight, offsets;
  std::vector<float> memory;  // three slots, filled with what must not be read
  WorkerPool pool{2};

  Stream(int taps_, int rollback_, bool bias_)
      : taps(taps_),
        rollback(rollback_),
        bias(bias_),
        weight(RandomFloats(static_cast<size_t>(kChannels * taps_), 1)),
        offsets(RandomFloats(kChannels, 2)),
        memory(3 * SlotFloats(), NAN) {}

  size_t SlotFloats() const {
    return kRingOffset / 4 + static_cast<size_t>((taps - 1 + rollback) * kChannels);
  }

  // Convolves the tokens of the rows in place, x [token, kChannels].
  void Mix(const std::vector<Row>& rows, std::vector<float>& x) {
    TokenMixArgs args;
    args.x = test::MatrixOf(x, kChannels);
    args.channels = kChannels;
    args.taps = taps;
    args.weight = weight.data();
    args.bias = bias ? offsets.data() : nullptr;
    args.segments = {{400, Activation::kSilu}, {200, Activation::kNone}};
    args.slots = {reinterpret_cast<std::byte*>(memory.data()), SlotFloats() * sizeof(float)};
    args.ring_offset = kRingOffset;
    args.rollback = rollback;
    CpuTokenMix(args, test::StepOf(rows), pool);
  }
};

// Tokens [first, first + count) of a sequence, one row in `slot`.
std::vector<float> MixPart(Stream& stream, const std::vector<float>& sequence, int slot, int first,
                           int count) {
  std::vector<float> x(sequence.begin() + first * kChannels,
                       sequence.begin() + (first + count) * kChannels);
  stream.Mix({Row{.slot = slot, .first_token = 0, .tokens = count, .position = first}}, x);
  return x;
}

TEST(TokenMixTest, EqualsTheConvolutionOfTheSequence) {
  constexpr int kTokens = 23;
  const std::vector<float> sequence = RandomFloats(kTokens * kChannels, 3);
  for (const int taps : {1, 2, 4}) {
    for (const bool bias : {false, true}) {
      Stream stream(taps, 2, bias);
      std::vector<double> expected;
      std::vector<double> tolerance;
      for (int t = 0; t < kTokens; ++t) {
        for (int c = 0; c < kChannels; ++c) {
          double sum = bias ? stream.offsets[static_cast<size_t>(c)] : 0;
          double magnitude = std::fabs(sum);
          for (int j = 0; j < taps; ++j) {
            const int at = t - taps + 1 + j;
            const double product =
                at < 0 ? 0
                       : static_cast<double>(stream.weight[static_cast<size_t>(c * taps + j)]) *
                             sequence[static_cast<size_t>(at * kChannels + c)];
            sum += product;
            magnitude += std::fabs(product);
          }
          expected.push_back(c < 400 ? sum / (1 + std::exp(-sum)) : sum);
          // taps + 1 roundings of the sum (silu's slope is at most 1.1), then silu's own five.
          tolerance.push_back(test::kEps *
                              ((taps + 1) * 1.1 * magnitude + 5 * std::fabs(expected.back())));
        }
      }
      test::ExpectClose(MixPart(stream, sequence, 1, 0, kTokens), expected, tolerance);
    }
  }
}

TEST(TokenMixTest, BitsDoNotDependOnHowTokensArrive) {
  constexpr int kTokens = 41;
  const std::vector<float> sequence = RandomFloats(kTokens * kChannels, 4);
  Stream whole(4, 2, true);
  const std::vector<float> expected = MixPart(whole, sequence, 0, 0, kTokens);
  for (const std::vector<int>& sizes : {std::vector<int>{1}, {2, 1}, {5, 3, 1}, {13}}) {
    Stream stream(4, 2, true);
    std::vector<float> actual;
    for (int done = 0, i = 0; done < kTokens; ++i) {
      const int count = std::min(sizes[static_cast<size_t>(i) % sizes.size()], kTokens - done);
      const auto part = MixPart(stream, sequence, 2, done, count);
      actual.insert(actual.end(), part.begin(), part.end());
      done += count;
    }
    EXPECT_EQ(actual, expected);
  }
}

TEST(TokenMixTest, GoesBackAsFarAsItsRollback) {
  constexpr int kTokens = 40;
  const std::vector<float> sequence = RandomFloats(kTokens * kChannels, 5);
  const std::vector<float> other = RandomFloats(kTokens * kChannels, 6);
  for (const int rollback : {0, 1, 3}) {
    Stream plain(4, rollback, false);
    const std::vector<float> expected = MixPart(plain, sequence, 0, 0, kTokens);
    Stream stream(4, rollback, false);
    std::vector<float> actual;
    for (int t = 0; t < kTokens; ++t) {
      // Tokens that will be taken back, then the true one.
      for (int i = 0; i < rollback && t + i < kTokens; ++i) {
        MixPart(stream, other, 0, t + i, 1);
      }
      const auto part = MixPart(stream, sequence, 0, t, 1);
      actual.insert(actual.end(), part.begin(), part.end());
    }
    EXPECT_EQ(actual, expected) << rollback;
  }
}

TEST(TokenMixTest, SessionsDoNotTouchEachOther) {
  constexpr int kTokens = 12;
  const std::vector<float> a = RandomFloats(kTokens * kChannels, 7);
  const std::vector<float> b = RandomFloats(kTokens * kChannels, 8);
  Stream alone(3, 2, true);
  const auto expected_a = MixPart(alone, a, 0, 0, kTokens);
  const auto expected_b = MixPart(alone, b, 1, 0, kTokens);
  Stream stream(3, 2, true);
  for (int t = 0; t < kTokens; t += 2) {
    const auto part = [&](const std::vector<float>& from) {
      return std::vector<float>(from.begin() + t * kChannels, from.begin() + (t + 2) * kChannels);
    };
    std::vector<float> x = part(b);
    const std::vector<float> second = part(a);
    x.insert(x.end(), second.begin(), second.end());
    stream.Mix({Row{.slot = 0, .first_token = 0, .tokens = 2, .position = t},
                Row{.slot = 2, .first_token = 2, .tokens = 2, .position = t}},
               x);
    std::vector<float> expected = part(expected_b);
    const std::vector<float> expected_second = part(expected_a);
    expected.insert(expected.end(), expected_second.begin(), expected_second.end());
    EXPECT_EQ(x, expected);
  }
}

}  // namespace
}  // namespace evenflow
