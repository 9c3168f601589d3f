// Every sampling field's range: both ends are allowed or refused as documented, NaN is refused, and
// the message names the field, the value and what is allowed.
#include "engine/sampler.h"

#include <cmath>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace evenflow {
namespace {

using ::testing::HasSubstr;

constexpr int kVocab = 100;

struct FloatField {
  const char* name;
  float SamplingParams::*field;
  std::vector<float> good;
  std::vector<float> bad;
};

TEST(ValidateSampling, RangesOfNumbers) {
  const FloatField fields[] = {
      {"temperature", &SamplingParams::temperature, {0, 1, 100}, {-0.01f, 100.1f}},
      {"typical_p", &SamplingParams::typical_p, {1e-6f, 1}, {0, -1, 1.01f}},
      {"top_p", &SamplingParams::top_p, {1e-6f, 1}, {0, -1, 1.01f}},
      {"min_p", &SamplingParams::min_p, {0, 1}, {-0.01f, 1.01f}},
      {"repetition_penalty", &SamplingParams::repetition_penalty, {0.1f, 10}, {0, -1, 10.1f}},
      {"frequency_penalty", &SamplingParams::frequency_penalty, {-2, 2}, {-2.1f, 2.1f}},
      {"presence_penalty", &SamplingParams::presence_penalty, {-2, 2}, {-2.1f, 2.1f}},
      {"penalty_decay", &SamplingParams::penalty_decay, {0.01f, 1}, {0, 1.01f}},
  };
  for (const FloatField& field : fields) {
    SamplingParams params;
    for (const float value : field.good) {
      params.*field.field = value;
      EXPECT_TRUE(ValidateSampling(params, kVocab).ok()) << field.name << " " << value;
    }
    std::vector<float> bad = field.bad;
    bad.push_back(std::numeric_limits<float>::quiet_NaN());
    bad.push_back(std::numeric_limits<float>::infinity());
    for (const float value : bad) {
      params.*field.field = value;
      const absl::Status status = ValidateSampling(params, kVocab);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field.name << " " << value;
      EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(field.name) + " is "));
      EXPECT_THAT(std::string(status.message()), HasSubstr("must be in "));
    }
  }
}

TEST(ValidateSampling, MessageShowsValueAndRange) {
  SamplingParams params;
  params.top_p = 1.5f;
  EXPECT_EQ(ValidateSampling(params, kVocab).message(), "top_p is 1.5; it must be in (0, 1]");
}

TEST(ValidateSampling, Counts) {
  SamplingParams params;
  params.top_k = -1;
  EXPECT_THAT(std::string(ValidateSampling(params, kVocab).message()), HasSubstr("top_k is -1"));
  params = {};
  params.penalty_last_n = -2;
  EXPECT_FALSE(ValidateSampling(params, kVocab).ok());
  params.penalty_last_n = -1;
  EXPECT_TRUE(ValidateSampling(params, kVocab).ok());
  params.top_logprobs = 20;
  EXPECT_TRUE(ValidateSampling(params, kVocab).ok());
  params.top_logprobs = 21;
  EXPECT_THAT(std::string(ValidateSampling(params, kVocab).message()), HasSubstr("logprobs is 21"));
}

TEST(ValidateSampling, Tokens) {
  SamplingParams params;
  params.logit_bias = {{0, 1.f}, {kVocab - 1, -100.f}};
  params.allowed_tokens = {0, 5, kVocab - 1};
  EXPECT_TRUE(ValidateSampling(params, kVocab).ok());
  params.allowed_tokens = {5, 5};
  EXPECT_FALSE(ValidateSampling(params, kVocab).ok());
  params.allowed_tokens = {kVocab};
  EXPECT_THAT(std::string(ValidateSampling(params, kVocab).message()),
              HasSubstr("allowed_token_ids has token 100"));
  params.allowed_tokens = {};
  params.logit_bias = {{3, std::nanf("")}};
  EXPECT_FALSE(ValidateSampling(params, kVocab).ok());
  params.logit_bias = {{-1, 0.f}};
  EXPECT_FALSE(ValidateSampling(params, kVocab).ok());
  params.logit_bias.clear();
  for (int i = 0; i < 1025; ++i) {
    params.logit_bias.push_back({i, 0.f});
  }
  EXPECT_THAT(std::string(ValidateSampling(params, 2000).message()),
              HasSubstr("logit_bias has 1025 entries"));
}

}  // namespace
}  // namespace evenflow
