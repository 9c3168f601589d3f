// The sampler on the CUDA device draws what the CPU's draws, which has tests of its own.
#include <deque>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/backend.h"

#include "tests/kernels/cpu_test_support.h"

namespace evenflow {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class CudaSampleTest : public testing::Test {
 protected:
  CudaSampleTest() {
    std::string error;
    backends_[0] = CreateCpuBackend({.threads = 2});
    backends_[1] = CreateCudaBackend({}, &error);
    EXPECT_NE(backends_[1], nullptr) << error;
  }

  void SetUp() override { ASSERT_NE(backends_[1], nullptr); }

  // The row's newest token.
  static int32_t NewestOf(const SamplingRow& row) {
    return row.history == nullptr ? 0 : row.history[(row.position - 1) % row.history_capacity];
  }

  // Samples every row from its logits [row, vocab], on both devices. CUDA is told the newest token
  // of every other row as what the step reads, and a wrong one as history.
  void Sample(const std::vector<float>& logits, int vocab, const std::vector<SamplingRow>& rows) {
    std::vector<SamplingRow> unknown = rows;
    std::deque<std::vector<int32_t>> rings;
    std::vector<int32_t> tokens, logit_tokens;
    for (size_t r = 0; r < rows.size(); ++r) {
      tokens.push_back(NewestOf(rows[r]));
      if (rows[r].history != nullptr && r % 2 == 1) {
        SamplingRow& row = unknown[r];
        std::vector<int32_t>& ring =
            rings.emplace_back(row.history, row.history + row.history_capacity);
        ring[static_cast<size_t>((row.position - 1) % row.history_capacity)] = 8;
        row.history = ring.data();
        row.newest_drawn = true;
      }
    }
    std::vector<Row> step_rows;
    for (size_t r = 0; r < rows.size(); ++r) {
      const auto index = static_cast<int32_t>(r);
      step_rows.push_back({index, index, 1, 0});
      logit_tokens.push_back(index);
    }
    StepInput input;
    input.rows = step_rows.data();
    input.row_count = input.token_count = input.logit_count = static_cast<int>(rows.size());
    input.tokens = tokens.data();
    input.logit_tokens = logit_tokens.data();
    for (int device = 0; device < 2; ++device) {
      Backend& backend = *backends_[device];
      const size_t row_bytes = static_cast<size_t>(vocab) * sizeof(float);
      void* const data = backend.Allocate(row_bytes * (rows.size() + kStepPadding));
      backend.Upload(data, logits.data(), logits.size() * sizeof(float));
      input.sampling = device == 0 ? rows.data() : unknown.data();
      backend.BeginStep(input);
      backend.Sample({{data, DType::kF32, vocab}, vocab});
      sampled_[device] = backend.Collect(backend.Launch()).sampled;
      EXPECT_EQ(backend.error(), "");
      backend.Free(data);
    }
  }

  // Draws with these parameters at many positions, and expects the same tokens. Weights are rounded
  // differently: a draw may fall between two sums that differ by some 2^-24 of a weight, about once
  // in a million draws.
  void ExpectSameDraws(SamplingParams params, int vocab, const std::string& what) {
    constexpr int kDraws = 64;
    std::vector<int32_t> history(32);
    for (size_t i = 0; i < history.size(); ++i) {
      history[i] = static_cast<int32_t>(i * i) % 50;
    }
    std::vector<SamplingRow> rows;
    for (int i = 0; i < kDraws; ++i) {
      SamplingRow row;
      row.params = &params;
      row.position = 1000 + i;
      row.history = history.data();
      row.history_capacity = 32;
      rows.push_back(row);
    }
    const std::vector<float> logits =
        test::RandomFloats(static_cast<size_t>(kDraws * vocab), 11, 3.0f);
    Sample(logits, vocab, rows);
    for (size_t i = 0; i < kDraws; ++i) {
      const SampledToken& cpu = sampled_[0][i];
      const SampledToken& cuda = sampled_[1][i];
      EXPECT_GE(cpu.token, 0) << what;
      EXPECT_EQ(cpu.token, cuda.token) << what << ", draw " << i;
      EXPECT_NEAR(cpu.logprob, cuda.logprob, 1e-5) << what;
      ASSERT_EQ(cpu.top.size(), cuda.top.size()) << what;
      for (size_t n = 0; n < cpu.top.size(); ++n) {
        EXPECT_EQ(cpu.top[n].token, cuda.top[n].token) << what;
        EXPECT_NEAR(cpu.top[n].logprob, cuda.top[n].logprob, 1e-5) << what;
      }
    }
  }

  std::unique_ptr<Backend> backends_[2];
  std::vector<SampledToken> sampled_[2];
};

TEST_F(CudaSampleTest, DrawsTheTokensOfTheCpu) {
  for (const int vocab : {60, 1000, 32000, 50257}) {
    const std::string size = " of " + std::to_string(vocab);
    const auto with = [](auto change) {
      SamplingParams params;
      change(params);
      return params;
    };
    using P = SamplingParams;
    ExpectSameDraws({}, vocab, "plain" + size);
    ExpectSameDraws(with([](P& p) { p.temperature = 0; }), vocab, "greedy" + size);
    ExpectSameDraws(with([](P& p) { p.temperature = 0.3f; }), vocab, "cold" + size);
    ExpectSameDraws(with([](P& p) { p.top_k = 20; }), vocab, "top-k" + size);
    ExpectSameDraws(with([](P& p) { p.top_p = 0.8f; }), vocab, "top-p" + size);
    ExpectSameDraws(with([](P& p) { p.min_p = 0.05f; }), vocab, "min-p" + size);
    ExpectSameDraws(with([](P& p) { p.typical_p = 0.6f; }), vocab, "typical" + size);
    ExpectSameDraws(with([](P& p) {
                      p.top_k = 40;
                      p.typical_p = 0.9f;
                      p.top_p = 0.9f;
                      p.min_p = 0.01f;
                      p.temperature = 0.8f;
                    }),
                    vocab, "all filters" + size);
    ExpectSameDraws(with([](P& p) {
                      p.repetition_penalty = 1.3f;
                      p.frequency_penalty = 0.5f;
                      p.presence_penalty = 0.25f;
                      p.penalty_decay = 0.9f;
                      p.logit_bias = {{3, 6.0f}, {7, -100.0f}};
                    }),
                    vocab, "penalties" + size);
    ExpectSameDraws(with([](P& p) { p.allowed_tokens = {5, 6, 50}; }), vocab, "allowed" + size);
    ExpectSameDraws(with([](P& p) { p.top_logprobs = 7; }), vocab, "logprobs" + size);
  }
}

TEST_F(CudaSampleTest, TiesGoToTheSmallestToken) {
  SamplingParams greedy, top_k, top_p;
  greedy.temperature = 0;
  top_k.top_k = 2;
  top_p.top_p = 0.3f;
  std::vector<float> logits(3 * 100, 1.0f);
  std::vector<SamplingRow> rows(3);
  rows[0].params = &greedy;
  rows[1].params = &top_k;
  rows[2].params = &top_p;
  Sample(logits, 100, rows);
  for (size_t r = 0; r < 3; ++r) {
    EXPECT_EQ(sampled_[0][r].token, sampled_[1][r].token) << "row " << r;
  }
}

TEST_F(CudaSampleTest, WhatIsNotFiniteOrNotAllowedHasNoToken) {
  SamplingParams plain, banned_all;
  banned_all.allowed_tokens = {2};
  const int32_t banned = 2;
  std::vector<SamplingRow> rows(4);
  for (SamplingRow& row : rows) {
    row.params = &plain;
  }
  rows[3].params = &banned_all;
  rows[3].banned = &banned;
  rows[3].banned_count = 1;
  std::vector<float> logits(4 * 5, 0.5f);
  logits[1] = std::numeric_limits<float>::quiet_NaN();
  logits[5 + 4] = kInf;
  logits[10] = -kInf;
  Sample(logits, 5, rows);
  for (size_t r = 0; r < 4; ++r) {
    EXPECT_EQ(sampled_[0][r].token, sampled_[1][r].token) << "row " << r;
    EXPECT_EQ(sampled_[1][r].token < 0, r != 2) << "row " << r;
  }
}

}  // namespace
}  // namespace evenflow
