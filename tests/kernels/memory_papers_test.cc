// What the papers say of their memories, checked without the recurrence.
#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/memory_sessions.h"

namespace evenflow {
namespace {

// RetNet, section 2.1: the parallel form (q k^T . D) v and the chunkwise form give the recurrence.
TEST(RetentionTest, ParallelAndChunkwiseFormsAgree) {
  constexpr int kTokens = 100;
  constexpr int kDim = 16;
  const MemorySetup setup = {MemoryKind::kRetention, PlainShape(1, kDim, kDim), {16, 2}};
  const MemoryInputs inputs = RandomInputs(setup, kTokens, 18);
  const double gamma = std::exp(static_cast<double>(inputs.log_decay[0]));
  const auto at = [&](const std::vector<float>& x, int t, int i) {
    return static_cast<double>(x[static_cast<size_t>(t * kDim + i)]);
  };
  // What token i reads of tokens [begin, i], by attention scores.
  const auto read = [&](int i, int begin, int c) {
    double o = 0;
    for (int j = begin; j <= i; ++j) {
      double score = 0;
      for (int k = 0; k < kDim; ++k) {
        score += at(inputs.q, i, k) * at(inputs.k, j, k);
      }
      o += std::pow(gamma, i - j) * score * at(inputs.v, j, c);
    }
    return o;
  };
  MemorySessions sessions(setup, 1, 1);
  const auto outputs = sessions.Run(0, inputs, 0, kTokens, 33);
  constexpr int kChunk = 20;
  std::vector<double> state(kDim * kDim);  // at the start of the chunk
  for (int i = 0; i < kTokens; ++i) {
    const int chunk = i / kChunk * kChunk;
    for (int c = 0; c < kDim; ++c) {
      double chunkwise = read(i, chunk, c);
      for (int k = 0; k < kDim; ++k) {
        chunkwise += std::pow(gamma, i - chunk + 1) * at(inputs.q, i, k) *
                     state[static_cast<size_t>(k * kDim + c)];
      }
      const double parallel = read(i, 0, c);
      EXPECT_NEAR(chunkwise, parallel, 1e-12);
      // fp32 sums of some dozens of terms, each below the largest |v| of about 3.
      EXPECT_NEAR(outputs[static_cast<size_t>(i * kDim + c)], parallel, 3 * 1e-6);
    }
    if (i + 1 == chunk + kChunk) {
      for (int k = 0; k < kDim; ++k) {
        for (int c = 0; c < kDim; ++c) {
          double& s = state[static_cast<size_t>(k * kDim + c)];
          s *= std::pow(gamma, kChunk);
          for (int j = chunk; j <= i; ++j) {
            s += std::pow(gamma, i - j) * at(inputs.k, j, k) * at(inputs.v, j, c);
          }
        }
      }
    }
  }
}

// With beta = 1 and a unit key the delta rule replaces what the key recalled: reading with the key
// gives the last value. Keys of one coordinate make the arithmetic exact.
TEST(DeltaRuleTest, RecallsTheLastValueOfAKey) {
  constexpr int kDim = 16;
  const MemorySetup setup = {MemoryKind::kDeltaRule, PlainShape(1, kDim, kDim), {7, 2}};
  MemoryInputs inputs = RandomInputs(setup, 120, 19);
  std::mt19937 random(20);
  for (int t = 0; t < inputs.tokens; ++t) {
    const auto hot = random() % kDim;
    for (size_t k = 0; k < kDim; ++k) {
      const auto i = static_cast<size_t>(t * kDim) + k;
      inputs.k[i] = inputs.q[i] = k == hot ? 1.0f : 0.0f;
      inputs.v[i] = static_cast<float>(static_cast<int>(random() % 64) - 32);
    }
    inputs.beta[static_cast<size_t>(t)] = 1;
  }
  MemorySessions sessions(setup, 1, 1);
  EXPECT_EQ(sessions.Run(0, inputs, 0, inputs.tokens, 3), inputs.v);
}

// RWKV-7, section 4: without decay, with one rate for all channels and the same key to erase and to
// write, the generalised delta rule is the delta rule.
TEST(GeneralizedDeltaRuleTest, WithOneKeyItIsTheDeltaRule) {
  constexpr int kDim = 16;
  constexpr int kTokens = 100;
  const MemorySetup setup = {MemoryKind::kGeneralizedDeltaRule, PlainShape(1, kDim, kDim), {7, 2}};
  const MemorySetup delta = {MemoryKind::kDeltaRule, setup.shape, setup.window};
  const MemoryInputs inputs = RandomInputs(delta, kTokens, 21);
  MemoryInputs generalized = inputs;
  generalized.e = inputs.k;
  generalized.log_decay.assign(inputs.k.size(), 0);
  generalized.k.clear();
  for (int t = 0; t < kTokens; ++t) {
    for (int entry = 0; entry < 2; ++entry) {
      for (int k = 0; k < kDim; ++k) {
        generalized.k.push_back(inputs.beta[static_cast<size_t>(t)] *
                                inputs.k[static_cast<size_t>(t * kDim + k)]);
      }
    }
  }
  MemorySessions sessions(setup, 1, 1);
  MemorySessions delta_sessions(delta, 1, 1);
  const auto outputs = sessions.Run(0, generalized, 0, kTokens, 3);
  const auto expected = delta_sessions.Run(0, inputs, 0, kTokens, 3);
  ASSERT_EQ(outputs.size(), expected.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    // Roundings of values of about 3, once a token; neither rule amplifies them.
    EXPECT_NEAR(outputs[i], expected[i], 3 * 1e-6) << i;
  }
}

// Kaczmarz linear attention, section 3: with eta = 1 a token is the projection of the state onto
// those that recall its value by its key, whatever the key's length.
TEST(KaczmarzDeltaRuleTest, RecallsTheLastValueOfAKeyOfAnyLength) {
  constexpr int kDim = 16;
  const MemorySetup setup = {MemoryKind::kKaczmarzDeltaRule, PlainShape(1, kDim, kDim), {7, 2}};
  MemoryInputs inputs = RandomInputs(setup, 120, 22);
  std::mt19937 random(23);
  std::uniform_real_distribution<float> length(0.5f, 30.0f);
  for (int t = 0; t < inputs.tokens; ++t) {
    const float scale = length(random);
    for (size_t k = 0; k < kDim; ++k) {
      const auto i = static_cast<size_t>(t * kDim) + k;
      inputs.k[i] *= scale;
      inputs.q[i] = inputs.k[i];
    }
    inputs.beta[static_cast<size_t>(t)] = 1;
  }
  MemorySessions sessions(setup, 1, 1);
  const auto outputs = sessions.Run(0, inputs, 0, inputs.tokens, 3);
  for (size_t i = 0; i < outputs.size(); ++i) {
    // The step falls short of the projection by 1e-6 / |k|^2; before it, the key of up to 30 times
    // the length reads up to that times the state, whose rounding errors are what remains.
    EXPECT_NEAR(outputs[i], inputs.v[i], 30 * 1e-4f) << "token " << i / kDim;
  }
}

}  // namespace
}  // namespace evenflow
