// The sampler against published vectors, a naive reference that sorts everything, and cases that
// were worked out by hand.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cpu/step.h"
#include "kernels/math/philox.h"

#include "tests/support/naive_filter.h"

namespace evenflow {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<SampledToken> SampleRows(const std::vector<std::vector<float>>& logits,
                                     const std::vector<SamplingRow>& rows, int threads = 1) {
  WorkerPool pool(threads);
  CpuStep step;
  step.sampling = rows;
  std::vector<float> all;
  for (const auto& row : logits) {
    all.insert(all.end(), row.begin(), row.end());
  }
  const auto vocab = static_cast<int>(logits[0].size());
  CpuSample({{all.data(), DType::kF32, vocab}, vocab}, step, pool);
  return step.output.sampled;
}

SampledToken SampleOne(const std::vector<float>& logits, const SamplingParams& params,
                       int64_t position = 0) {
  SamplingRow row;
  row.params = &params;
  row.position = position;
  return SampleRows({logits}, {row})[0];
}

// The set of tokens drawn over `draws` positions.
std::vector<int32_t> DrawnTokens(const std::vector<float>& logits, const SamplingParams& params,
                                 int draws = 400) {
  std::vector<int32_t> drawn;
  for (int i = 0; i < draws; ++i) {
    drawn.push_back(SampleOne(logits, params, i).token);
  }
  std::sort(drawn.begin(), drawn.end());
  drawn.erase(std::unique(drawn.begin(), drawn.end()), drawn.end());
  return drawn;
}

std::vector<float> LogsOf(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) {
    logits.push_back(static_cast<float>(std::log(p)));
  }
  return logits;
}

std::vector<float> RandomLogits(size_t vocab, float scale, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> logits(vocab);
  std::generate(logits.begin(), logits.end(), [&] { return normal(random); });
  return logits;
}

TEST(SampleTest, GreedyTakesTheSmallestOfEquals) {
  SamplingParams params;
  params.temperature = 0;
  EXPECT_EQ(SampleOne({1, 3, 2, 3, 3}, params).token, 1);
  EXPECT_EQ(SampleOne({-kInf, -5, -kInf}, params).token, 1);
  std::vector<float> long_row(1003, 0.0f);
  long_row[777] = long_row[1001] = 1;
  EXPECT_EQ(SampleOne(long_row, params).token, 777);
}

TEST(SampleTest, RefusesLogitsThatAreNotFinite) {
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingParams params;
    params.temperature = temperature;
    for (size_t at = 0; at < 37; ++at) {
      for (const float bad : {std::nanf(""), kInf}) {
        std::vector<float> logits(37, 0.5f);
        logits[at] = bad;
        EXPECT_EQ(SampleOne(logits, params).token, -1) << at << " " << bad;
      }
    }
    EXPECT_EQ(SampleOne(std::vector<float>(37, -kInf), params).token, -1);
    EXPECT_EQ(SampleOne({-kInf, 0, -kInf}, params).token, 1);
    params.logit_bias = {{0, -kInf}, {1, -kInf}};
    EXPECT_EQ(SampleOne({0, 0}, params).token, -1) << "nothing is allowed";
  }
}

TEST(SampleTest, TinyTemperatureIsGreedyAndNothingOverflows) {
  SamplingParams params;
  for (const float temperature : {1e-3f, 1e-30f, 1e-44f}) {
    params.temperature = temperature;
    EXPECT_EQ(SampleOne({-1e30f, 80, 3e38f, 1, -kInf}, params).token, 2) << temperature;
  }
}

TEST(SampleTest, BiasAllowedAndBannedTokens) {
  SamplingParams params;
  params.temperature = 0;
  params.logit_bias = {{0, 2.5f}, {2, -10}, {99, 5}};
  EXPECT_EQ(SampleOne({1, 3, 20, 2}, params).token, 2);
  EXPECT_EQ(SampleOne({1, 3, 12, 2}, params).token, 0);
  params.allowed_tokens = {1, 3};
  EXPECT_EQ(SampleOne({1, 3, 20, 2}, params).token, 1);
  const int32_t banned[] = {1};
  SamplingRow row;
  row.params = &params;
  row.banned = banned;
  row.banned_count = 1;
  EXPECT_EQ(SampleRows({{1, 3, 20, 2}}, {row})[0].token, 3);
  const int32_t all[] = {1, 3};
  row.banned = all;
  row.banned_count = 2;
  EXPECT_EQ(SampleRows({{1, 3, 20, 2}}, {row})[0].token, -1);
}

// Penalised logits are seen through greedy choice: token 0 carries the value asked about.
class PenaltyTest : public ::testing::Test {
 protected:
  // The logit that token 0 has after penalties, to within 1e-4, found by bisection against token 1.
  float Penalised(float logit) {
    float low = -100;
    float high = 100;
    for (int i = 0; i < 40; ++i) {
      const float middle = (low + high) / 2;
      SamplingRow row;
      row.params = &params_;
      row.position = position_;
      row.history = history_.data();
      row.history_capacity = static_cast<int32_t>(history_.size());
      (SampleRows({{logit, middle, -200, -200}}, {row})[0].token == 0 ? low : high) = middle;
    }
    return low;
  }

  PenaltyTest() { params_.temperature = 0; }

  SamplingParams params_;
  std::vector<int32_t> history_ = {0, 2, 0, 3};  // the token at p is history[p % 4]
  int64_t position_ = 4;                         // newest first: 3, 0, 2, 0
};

TEST_F(PenaltyTest, RepetitionDividesPositiveAndMultipliesNegative) {
  params_.repetition_penalty = 2;
  EXPECT_THAT(Penalised(3), FloatNear(1.5f, 1e-4f));
  EXPECT_THAT(Penalised(-3), FloatNear(-6, 1e-4f));
}

TEST_F(PenaltyTest, FrequencyAndPresence) {
  params_.frequency_penalty = 0.5f;
  EXPECT_THAT(Penalised(3), FloatNear(2, 1e-4f)) << "seen twice";
  params_.presence_penalty = 0.25f;
  EXPECT_THAT(Penalised(3), FloatNear(1.75f, 1e-4f));
  params_.penalty_decay = 0.5f;  // ages 1 and 3: 0.5 + 0.125 occurrences, the newest 0.5
  EXPECT_THAT(Penalised(3), FloatNear(3 - 0.5f * 0.625f - 0.25f * 0.5f, 1e-4f));
  params_.repetition_penalty = 2;
  EXPECT_THAT(Penalised(3), FloatNear(1.5f - 0.5f * 0.625f - 0.25f * 0.5f, 1e-4f));
}

TEST_F(PenaltyTest, LooksBackOnlySoFar) {
  params_.frequency_penalty = 1;
  params_.penalty_last_n = 1;
  EXPECT_THAT(Penalised(3), FloatNear(3, 1e-4f));
  params_.penalty_last_n = 2;
  EXPECT_THAT(Penalised(3), FloatNear(2, 1e-4f));
  params_.penalty_last_n = -1;
  EXPECT_THAT(Penalised(3), FloatNear(1, 1e-4f));
  params_.penalty_last_n = 0;
  EXPECT_THAT(Penalised(3), FloatNear(3, 1e-4f));
  params_.penalty_last_n = 64;
  position_ = 1;  // only token 0 was read; the rest of the ring is another session's
  EXPECT_THAT(Penalised(3), FloatNear(2, 1e-4f));
  position_ = 6;  // the ring has wrapped: newest first 2, 0, 3, 0
  history_ = {0, 2, 0, 3};
  EXPECT_THAT(Penalised(3), FloatNear(1, 1e-4f));
}

TEST(SampleTest, EveryFilterDrawsWhatTheNaiveOneDraws) {
  std::mt19937 random(5);
  const auto uniform = [&] { return std::uniform_real_distribution<float>(0.02f, 0.98f)(random); };
  for (int trial = 0; trial < 600; ++trial) {
    const std::vector<float> logits = RandomLogits(
        1 + random() % 3000, trial % 3 == 0 ? 0.3f : 3.0f, static_cast<uint32_t>(random()));
    SamplingParams params;
    params.seed = random();
    params.temperature = 0.3f + uniform();
    const int which = trial % 6;
    if (which == 1 || which == 5) {
      params.top_k = static_cast<int32_t>(1 + random() % 200);
    }
    if (which == 2 || which == 5) {
      params.typical_p = uniform();
    }
    if (which == 3 || which == 5) {
      params.top_p = uniform();
    }
    if (which == 4 || which == 5) {
      params.min_p = uniform() * 0.5f;
    }
    const auto kept = NaiveFilter(logits, params);
    for (int64_t position = 0; position < 5; ++position) {
      const int32_t token = SampleOne(logits, params, position).token;
      const double draw = UniformAt(params.seed, position);
      double low = 0;
      bool found = false;
      for (const auto& [candidate, p] : kept) {
        if (candidate == token) {
          // fp32 weights move the running sum by some epsilons.
          EXPECT_GE(draw, low - 1e-5) << "trial " << trial;
          EXPECT_LE(draw, low + p + 1e-5) << "trial " << trial;
          found = true;
        }
        low += p;
      }
      EXPECT_TRUE(found) << "trial " << trial << ": token " << token << " was filtered out";
    }
  }
}

TEST(SampleTest, FiltersByHand) {
  const std::vector<float> logits = LogsOf({0.1, 0.4, 0.2, 0.25, 0.05});
  SamplingParams params;
  EXPECT_THAT(DrawnTokens(logits, params), ElementsAre(0, 1, 2, 3, 4));
  params.top_k = 2;
  EXPECT_THAT(DrawnTokens(logits, params), ElementsAre(1, 3));
  params.top_k = 0;
  params.top_p = 0.6f;  // 0.4 + 0.25
  EXPECT_THAT(DrawnTokens(logits, params), ElementsAre(1, 3));
  params.top_p = 0.7f;  // 0.4 + 0.25 + 0.2
  EXPECT_THAT(DrawnTokens(logits, params), ElementsAre(1, 2, 3));
  params.top_p = 1e-6f;
  EXPECT_THAT(DrawnTokens(logits, params), ElementsAre(1)) << "always at least one";
  params.top_p = 1;
  params.min_p = 0.3f;  // of 0.4
  EXPECT_THAT(DrawnTokens(logits, params), ElementsAre(1, 2, 3));
  params.min_p = 1;
  EXPECT_THAT(DrawnTokens(logits, params), ElementsAre(1));
}

TEST(SampleTest, TopPFollowsTopK) {
  // Of all, 0.4 + 0.25 are 0.65 of the mass; of the first three (0.85), 0.765.
  const std::vector<float> logits = LogsOf({0.1, 0.4, 0.2, 0.25, 0.05});
  SamplingParams params;
  params.top_p = 0.75f;
  EXPECT_THAT(DrawnTokens(logits, params), ElementsAre(1, 2, 3));
  params.top_k = 3;
  EXPECT_THAT(DrawnTokens(logits, params), ElementsAre(1, 3));
}

TEST(SampleTest, TiesGoToTheSmallerIds) {
  const std::vector<float> logits(2000, 1.0f);
  SamplingParams params;
  params.top_k = 3;
  EXPECT_THAT(DrawnTokens(logits, params), ElementsAre(0, 1, 2));
  params.top_k = 0;
  params.top_p = 2.5f / 2000;
  EXPECT_THAT(DrawnTokens(logits, params), ElementsAre(0, 1, 2));
  params.top_p = 1;
  params.typical_p = 2.5f / 2000;
  EXPECT_THAT(DrawnTokens(logits, params), ElementsAre(0, 1, 2));
}

TEST(SampleTest, DrawsFollowTheProbabilities) {
  const std::vector<double> probabilities = {0.02, 0.3, 0.08, 0.25, 0.05, 0.1, 0.15, 0.05};
  SamplingParams params;
  params.seed = 11;
  constexpr int kDraws = 20000;
  std::vector<int> counts(probabilities.size());
  for (int i = 0; i < kDraws; ++i) {
    ++counts[static_cast<size_t>(SampleOne(LogsOf(probabilities), params, i).token)];
  }
  double chi_square = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * kDraws;
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 24.32);  // 7 degrees of freedom, probability 0.001
}

TEST(SampleTest, EqualSeedsGiveEqualStreamsInAnyCompany) {
  std::vector<std::vector<float>> logits;
  std::vector<SamplingParams> params(24);
  std::vector<SamplingRow> rows(24);
  for (size_t i = 0; i < rows.size(); ++i) {
    logits.push_back(RandomLogits(5000, 1, static_cast<uint32_t>(i)));
    params[i].seed = i % 5;
    params[i].top_p = i % 2 == 0 ? 1.0f : 0.9f;
    params[i].top_k = i % 3 == 0 ? 0 : 100;
    params[i].top_logprobs = 3;
    rows[i].params = &params[i];
    rows[i].position = static_cast<int64_t>(1000 + i);
  }
  const auto together = SampleRows(logits, rows, 3);
  for (size_t i = 0; i < rows.size(); ++i) {
    const SampledToken alone = SampleRows({logits[i]}, {rows[i]})[0];
    EXPECT_EQ(alone.token, together[i].token);
    EXPECT_EQ(alone.logprob, together[i].logprob);
    ASSERT_EQ(together[i].top.size(), 3u);
    EXPECT_EQ(alone.top[2].token, together[i].top[2].token);
  }
  std::vector<int32_t> first;
  std::vector<int32_t> second;
  std::vector<int32_t> other;
  for (int64_t p = 0; p < 50; ++p) {
    first.push_back(SampleOne(logits[0], params[1], p).token);
    second.push_back(SampleOne(logits[0], params[1], p).token);
    other.push_back(SampleOne(logits[0], params[3], p).token);
  }
  EXPECT_EQ(first, second);
  EXPECT_NE(first, other);
}

TEST(SampleTest, LogprobsAreOfTheRawLogits) {
  const std::vector<float> logits = LogsOf({0.125, 0.5, 0.125, 0.25});
  SamplingParams params;
  params.temperature = 0;
  params.logit_bias = {{2, 10}};
  params.top_k = 1;
  params.top_logprobs = 3;
  const SampledToken sampled = SampleOne(logits, params);
  EXPECT_EQ(sampled.token, 2);
  const float tolerance = 4e-7f;  // a few roundings of numbers near 2
  EXPECT_NEAR(sampled.logprob, std::log(0.125f), tolerance);
  ASSERT_EQ(sampled.top.size(), 3u);
  EXPECT_EQ(sampled.top[0].token, 1);
  EXPECT_NEAR(sampled.top[0].logprob, std::log(0.5f), tolerance);
  EXPECT_EQ(sampled.top[1].token, 3);
  EXPECT_EQ(sampled.top[2].token, 0) << "the smaller of two equals";
  params.top_logprobs = 0;
  EXPECT_TRUE(SampleOne(logits, params).top.empty());
  params.top_logprobs = 20;
  EXPECT_EQ(SampleOne(logits, params).top.size(), 4u);
}

}  // namespace
}  // namespace evenflow
