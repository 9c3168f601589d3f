// The engine on the CUDA device says the same, to the last log probability, whether the next step
// is planned before or after a step's tokens are known: one stream at a time, as what shares a step
// may change the order of sums here. And, where it is batch-invariant, alone and in company. And
// whether there is a slot for every session, or their states go to host memory and come back.
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/model/model.h"

#include "gtest/gtest.h"
#include "tests/support/forwarding_backend.h"

namespace evenflow {
namespace {

class WithDepth : public ForwardingBackend {
 public:
  WithDepth(std::unique_ptr<Backend> backend, int depth)
      : ForwardingBackend(std::move(backend)), depth_(depth) {}

  int pipeline_depth() const override { return depth_; }

 private:
  const int depth_;
};

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  int64_t position = 0;

  friend bool operator==(const Answer& a, const Answer& b) {
    return a.tokens == b.tokens && a.logprobs == b.logprobs && a.position == b.position;
  }
};

Answer AnswerOf(const absl::StatusOr<std::shared_ptr<Outbox>>& outbox) {
  EXPECT_TRUE(outbox.ok()) << outbox.status();
  Answer answer;
  std::optional<FinishEvent> finish;
  while (outbox.ok() && !finish) {
    TokenEvents events;
    (*outbox)->Take(&events, &finish);
    for (const TokenEvent& event : events) {
      answer.tokens.push_back(event.sampled.token);
      answer.logprobs.push_back(event.sampled.logprob);
      for (const TokenLogprob& top : event.sampled.top) {
        answer.logprobs.push_back(top.logprob);
      }
    }
  }
  if (finish) {
    EXPECT_TRUE(finish->status.ok()) << finish->status;
    answer.position = finish->position;
  }
  return answer;
}

EngineRequest Request(unsigned i, int vocab) {
  EngineRequest request;
  for (unsigned n = 0; n < 1 + 37 * i % 150; ++n) {
    request.prompt.push_back(static_cast<int32_t>((n * 7 + i * 13) % static_cast<unsigned>(vocab)));
  }
  request.max_tokens = 60;
  request.sampling.seed = i;
  request.sampling.temperature = i % 4 == 0 ? 0.f : 1.f;
  request.sampling.top_logprobs = i % 3 == 0 ? 5 : 0;
  if (i % 2 == 1) {
    request.sampling.repetition_penalty = 1.3f;
    request.sampling.frequency_penalty = 0.7f;
    request.sampling.presence_penalty = 0.4f;
    request.sampling.penalty_decay = 0.9f;
    request.sampling.penalty_last_n = i % 5 == 0 ? 1 : 16;
  }
  if (i % 3 == 1) {
    for (int token = static_cast<int>(i); token < vocab; token += 20) {
      request.stop_tokens.push_back(token);
    }
    request.min_tokens = i % 4;
  }
  return request;
}

constexpr unsigned kRequests = 24;

struct Setup {
  int depth = 0;
  bool batch_invariant = false;
  bool company = false;  // all at once
  unsigned slots = kRequests;
};

// What it answers to all requests, each on a session of its own and with more to say afterwards.
std::vector<Answer> Answers(const std::string& model_name, const Setup& setup) {
  std::string error;
  std::unique_ptr<Backend> backend =
      CreateCudaBackend({.batch_invariant = setup.batch_invariant}, &error);
  EXPECT_NE(backend, nullptr) << error;
  std::vector<Answer> answers;
  if (backend == nullptr) {
    return answers;
  }
  backend = std::make_unique<WithDepth>(std::move(backend), setup.depth);
  auto model = Model::Load(EVENFLOW_SOURCE_DIR "/tests/goldens/" + model_name, {}, *backend);
  EXPECT_TRUE(model.ok()) << model.status();
  const int vocab = (*model)->info().vocab_size;
  EngineOptions options;
  options.max_sessions = static_cast<int>(setup.slots);
  auto engine = Engine::Create(options, *std::move(model), *backend, {});
  EXPECT_TRUE(engine.ok()) << engine.status();
  EngineRequest next;
  next.max_tokens = 7;
  std::vector<SessionLease> leases;
  for (unsigned i = 0; i < kRequests; ++i) {
    leases.push_back(*(*engine)->Attach(""));
  }
  for (const bool more : {false, true}) {
    std::vector<absl::StatusOr<std::shared_ptr<Outbox>>> outboxes;
    for (unsigned i = 0; i < kRequests; ++i) {
      outboxes.push_back((*engine)->Submit(leases[i], more ? next : Request(i, vocab)));
      if (!setup.company) {
        answers.push_back(AnswerOf(outboxes.back()));
      }
    }
    for (unsigned i = 0; setup.company && i < kRequests; ++i) {
      answers.push_back(AnswerOf(outboxes[i]));
    }
  }
  EXPECT_EQ(backend->error(), "");
  // In the second round, those moved out in the first one come back.
  EXPECT_GE((*engine)->Gauges().moved_in, int64_t{kRequests} - setup.slots);
  return answers;
}

class CudaEngineTest : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Models, CudaEngineTest,
                         ::testing::Values("retnet-a", "gated_deltanet-a", "kda-a",
                                           "gated_deltanet-hybrid-list", "mamba2-a"));

void ExpectSame(const std::vector<Answer>& actual, const std::vector<Answer>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(actual[i].tokens, expected[i].tokens) << i;
    EXPECT_TRUE(actual[i] == expected[i]) << i;
  }
}

TEST_P(CudaEngineTest, SaysTheSameAStepAhead) {
  ExpectSame(Answers(GetParam(), {.depth = 1}), Answers(GetParam(), {.depth = 0}));
}

TEST_P(CudaEngineTest, SaysTheSameInCompanyWhereBatchInvariant) {
  ExpectSame(Answers(GetParam(), {.depth = 1, .batch_invariant = true, .company = true}),
             Answers(GetParam(), {.depth = 1, .batch_invariant = true}));
}

TEST_P(CudaEngineTest, SaysTheSameFromHostMemory) {
  ExpectSame(Answers(GetParam(), {.depth = 1, .slots = 5}), Answers(GetParam(), {.depth = 1}));
}

// Copies go on beside the steps of others.
TEST_P(CudaEngineTest, SaysTheSameFromHostMemoryInCompany) {
  ExpectSame(
      Answers(GetParam(), {.depth = 1, .batch_invariant = true, .company = true, .slots = 5}),
      Answers(GetParam(), {.depth = 1, .batch_invariant = true}));
}

}  // namespace
}  // namespace evenflow
