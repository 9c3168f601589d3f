// Log-linear attention against its definition over all pairs of tokens, and its levels against a
// naive count.
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/memory_reference.h"
#include "tests/support/memory_sessions.h"

namespace evenflow {
namespace {

constexpr int kDim = 12;

// The level of token s as t sees it: buckets of the powers of two of which t is a sum, largest
// first.
int LevelByBuckets(int t, int s) {
  if (s == t) {
    return 0;
  }
  int level = 0;
  while ((2 << level) <= t) {
    ++level;
  }
  const int bucket = 1 << level;
  return s < bucket ? level + 1 : LevelByBuckets(t - bucket, s - bucket);
}

// o_t = sum_s lambda_t[level(t, s)] beta_s (k_s . G_{s+1..t} q_t) v_s of one head, with the
// transitions G applied to the query one by one.
std::vector<double> Parallel(const MemorySetup& setup, const MemoryInputs& inputs) {
  const bool delta = setup.memory == MemoryKind::kLogLinearDeltaRule;
  const int levels = setup.shape.banks;
  const auto at = [](const std::vector<float>& x, int i) {
    return static_cast<double>(x[static_cast<size_t>(i)]);
  };
  std::vector<double> outputs(static_cast<size_t>(inputs.tokens * kDim));
  for (int t = 0; t < inputs.tokens; ++t) {
    double x[kDim];
    for (int k = 0; k < kDim; ++k) {
      x[k] = at(inputs.q, t * kDim + k);
    }
    for (int s = t; s >= 0; --s) {
      double score = 0;
      for (int k = 0; k < kDim; ++k) {
        score += at(inputs.k, s * kDim + k) * x[k];
      }
      score *= delta ? at(inputs.beta, s) : 1;
      const int level = LevelByBuckets(t, s);
      if (level < levels || !setup.forgets_top) {
        const double lambda = at(inputs.level_weights, t * levels + std::min(level, levels - 1));
        for (int c = 0; c < kDim; ++c) {
          outputs[static_cast<size_t>(t * kDim + c)] += lambda * score * at(inputs.v, s * kDim + c);
        }
      }
      for (int k = 0; k < kDim; ++k) {
        x[k] -= delta ? score * at(inputs.k, s * kDim + k) : 0;
        x[k] *= std::exp(at(inputs.log_decay, s));
      }
    }
  }
  return outputs;
}

MemorySetup SetupOf(MemoryKind memory, int commit, int levels, bool forgets) {
  MemorySetup setup = {memory, PlainShape(1, kDim, kDim), {commit, 2}};
  setup.shape.banks = levels;
  setup.forgets_top = forgets;
  return setup;
}

template <class Number>
double LargestDifference(const std::vector<Number>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - b[i]));
  }
  return largest;
}

// 300 tokens: many levels, few that saturate (at 8 tokens, within a block), and a top that forgets.
TEST(LogLinearTest, IsTheParallelForm) {
  for (const MemoryKind memory :
       {MemoryKind::kLogLinearAttention, MemoryKind::kLogLinearDeltaRule}) {
    for (const int commit : {1, 4, 16, 64}) {
      for (const int levels : {15, 4, 1}) {
        SCOPED_TRACE(testing::Message() << Name(memory) << " C " << commit << " levels " << levels);
        const MemorySetup setup = SetupOf(memory, commit, levels, false);
        const MemoryInputs inputs = RandomInputs(setup, 300, 31);
        const std::vector<double> parallel = Parallel(setup, inputs);
        EXPECT_LE(LargestDifference(RunReference(setup, inputs, 0).outputs, parallel), 1e-12)
            << "the recurrence over levels";
        MemorySessions sessions(setup, 1, 1);
        // Sums of some hundred terms of a few units at most, in fp32.
        EXPECT_LE(LargestDifference(sessions.Run(0, inputs, 0, 300, 37), parallel), 2e-5);
      }
    }
  }
}

TEST(LogLinearTest, AForgettingTopDropsWhatOutgrowsIt) {
  for (const int commit : {1, 4, 16}) {
    const MemorySetup setup = SetupOf(MemoryKind::kLogLinearAttention, commit, 6, true);
    const MemoryInputs inputs = RandomInputs(setup, 300, 32);
    const std::vector<double> parallel = Parallel(setup, inputs);
    MemorySessions sessions(setup, 1, 1);
    EXPECT_LE(LargestDifference(sessions.Run(0, inputs, 0, 300, 37), parallel), 2e-5);
    MemorySetup keeping = setup;
    keeping.forgets_top = false;
    EXPECT_GT(LargestDifference(RunReference(keeping, inputs, 0).outputs, parallel), 0.01)
        << "there was something to forget";
  }
}

// Banks hold what a naive list of buckets holds: each takes what overflows the one below.
TEST(FenwickBanksTest, CarryAsAListOfBucketsDoes) {
  for (const bool forgets : {false, true}) {
    for (const int levels : {6, 9}) {
      MemoryShape shape;
      shape.banks = levels;
      const Window window{16, 2};
      const FenwickBanks banks = FenwickBanks::Of(shape, window, forgets);
      ASSERT_EQ(banks.count(), levels - 5);
      std::vector<int64_t> held(static_cast<size_t>(banks.count()), 0);  // blocks in each bank
      for (int64_t block = 0; block < 1000; ++block) {
        size_t to = 0;
        int64_t carried = 1;
        while (to < held.size() && held[to] > 0 && (forgets || to + 1 < held.size())) {
          carried += held[to];
          held[to] = 0;
          ++to;
        }
        ASSERT_EQ(banks.Target(block), static_cast<int>(to));
        if (to < held.size()) {
          held[to] += carried;
        }
        for (size_t bank = 0; bank < held.size(); ++bank) {
          ASSERT_EQ(banks.Live(static_cast<int>(bank), block + 1), held[bank] > 0);
        }
      }
    }
  }
}

TEST(FenwickBanksTest, LevelsAreThoseOfTheBuckets) {
  MemoryShape shape;
  shape.banks = 48;
  const FenwickBanks banks = FenwickBanks::Of(shape, {16, 2}, false);
  for (int t = 0; t < 200; ++t) {
    for (int s = 0; s <= t; ++s) {
      ASSERT_EQ(banks.Level(t, s), LevelByBuckets(t, s)) << t << " " << s;
    }
  }
  EXPECT_EQ(banks.Level(int64_t{1} << 40, (int64_t{1} << 40) - 1), 41);
  EXPECT_EQ(banks.Level(int64_t{1} << 60, 0), 47) << "the top";
}

}  // namespace
}  // namespace evenflow
