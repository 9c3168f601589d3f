// What a request meets: streams, sessions, ends and their reasons.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_fixture.h"

namespace evenflow {
namespace {

using ::testing::HasSubstr;

INSTANTIATE_TEST_SUITE_P(PipelineDepth, EngineTest, ::testing::Values(0, 1));

TEST_P(EngineTest, StreamsWhatTheSessionAloneWouldSay) {
  Engine& engine = Start();
  auto lease = engine.Attach("");
  Reader reader(*engine.Submit(*lease, Ask(Prompt(300), 40, 7)));
  const FinishEvent& finish = reader.ReadAll();
  FakeSession alone(window_);
  for (const int32_t token : Prompt(300)) {
    alone.Learn(token);
  }
  SamplingParams params;
  params.seed = 7;
  EXPECT_EQ(reader.tokens, alone.Generate(40, params));
  EXPECT_TRUE(finish.status.ok()) << finish.status;
  EXPECT_EQ(finish.reason, FinishReason::kLength);
  EXPECT_EQ(finish.position, 340);
  EXPECT_EQ(finish.prompt_tokens, 300);
  EXPECT_EQ(finish.generated_tokens, 40);
  EXPECT_EQ(finish.seed, 7u);
  EXPECT_LE(finish.arrived, finish.started);
  EXPECT_LE(finish.started, finish.first_token);
  EXPECT_LE(finish.first_token, finish.last_token);
  EXPECT_EQ(reader.positions.front(), 301);
  EXPECT_EQ(reader.positions.back(), 340);
  EXPECT_EQ(lease->position(), 340);
}

TEST_P(EngineTest, StreamsTogetherSayWhatEachSaysAlone) {
  options_.max_sessions = 8;
  Engine& engine = Start();
  std::vector<SessionLease> leases;
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < 40; ++i) {
    leases.push_back(*engine.Attach(""));
    EngineRequest request = Ask(Prompt(1 + 23 * i, i), 10 + i, static_cast<uint64_t>(i));
    request.client = std::string(1, static_cast<char>('a' + i % 3));
    readers.push_back(std::make_unique<Reader>(*engine.Submit(leases.back(), request)));
  }
  // Those without a slot go on as the others' leases go.
  for (int i = 0; i < 40; ++i) {
    readers[static_cast<size_t>(i)]->ReadAll();
    leases[static_cast<size_t>(i)] = SessionLease();
  }
  for (int i = 0; i < 40; ++i) {
    FakeSession alone(window_);
    for (const int32_t token : Prompt(1 + 23 * i, i)) {
      alone.Learn(token);
    }
    SamplingParams params;
    params.seed = static_cast<uint64_t>(i);
    EXPECT_EQ(readers[static_cast<size_t>(i)]->tokens, alone.Generate(10 + i, params)) << i;
  }
  AwaitSlotsUsed(0);
  EXPECT_EQ(device_.DirtySlots(), 0);
}

TEST_P(EngineTest, AKeptSessionRemembersExactlyWhatWasSaid) {
  Engine& engine = Start();
  ASSERT_TRUE(engine.CreateSession("kept", std::nullopt).ok());
  FakeSession alone(window_);
  const auto learn = [&alone](const std::vector<int32_t>& prompt) {
    for (const int32_t token : prompt) {
      alone.Learn(token);
    }
  };
  const auto ask = [&engine](EngineRequest request) {
    auto lease = engine.Attach("kept");
    EXPECT_EQ(lease->session_id(), "kept");
    Reader reader(*engine.Submit(*lease, std::move(request)));
    EXPECT_TRUE(reader.ReadAll().status.ok()) << reader.finish->status;
    return reader.tokens;
  };
  SamplingParams params;
  // Only read: one token, which is pending and needs no slot; then many.
  EngineRequest read = Ask(Prompt(1), 1);
  read.generate = false;
  EXPECT_TRUE(ask(read).empty());
  learn(Prompt(1));
  EXPECT_EQ(engine.GetSession("kept")->position, 1);
  EXPECT_EQ(engine.GetSession("kept")->state_bytes, 0);
  read.prompt = Prompt(500, 1);
  EXPECT_TRUE(ask(read).empty());
  learn(Prompt(500, 1));
  EXPECT_EQ(engine.GetSession("kept")->position, 501);
  EXPECT_EQ(engine.GetSession("kept")->state_bytes, static_cast<int64_t>(sizeof(FakeState)));
  // Text, then an empty prompt that goes on, then both.
  EXPECT_EQ(ask(Ask({}, 5)), alone.Generate(5, params));
  EXPECT_EQ(ask(Ask({}, 33)), alone.Generate(33, params));
  learn(Prompt(64, 2));
  EXPECT_EQ(ask(Ask(Prompt(64, 2), 9)), alone.Generate(9, params));
  read.prompt = {};
  EXPECT_TRUE(ask(read).empty());
  EXPECT_EQ(ask(Ask({}, 3)), alone.Generate(3, params));
  const FakeState state = device_.StateOf(0);
  EXPECT_EQ(std::memcmp(&state, &alone.state, sizeof state), 0);
}

TEST_P(EngineTest, WhatIsWrongIsToldAtOnce) {
  options_.max_prompt_tokens = 10;
  Engine& engine = Start();
  auto lease = engine.Attach("");
  const auto refusal = [&](const EngineRequest& request) {
    return engine.Submit(*lease, request).status();
  };
  EXPECT_EQ(refusal(Ask({}, 1)).message(), "prompt is empty and the session has no tokens");
  EXPECT_EQ(refusal(Ask(Prompt(11), 1)).message(), "prompt has 11 tokens; at most 10 are allowed");
  EXPECT_EQ(refusal(Ask({kFakeVocab}, 1)).message(),
            "prompt has token 1000; tokens must be in [0, 999]");
  EXPECT_EQ(refusal(Ask({-1}, 1)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal(Ask({1}, 0)).message(), "max_tokens is 0; it must be at least 1");
  EngineRequest request = Ask({1}, 1);
  request.min_tokens = -1;
  EXPECT_EQ(refusal(request).code(), absl::StatusCode::kInvalidArgument);
  request = Ask({1}, 1);
  request.stop_tokens = {kFakeVocab};
  EXPECT_EQ(refusal(request).code(), absl::StatusCode::kInvalidArgument);
  request = Ask({1}, 1);
  request.sampling.temperature = -1;
  EXPECT_EQ(refusal(request).message(), "temperature is -1; it must be in [0, 100]");
  request = Ask({1}, 1);
  request.min_tokens = 1;
  request.stop_tokens = {5, 6};
  request.sampling.allowed_tokens = {6};
  EXPECT_THAT(std::string(refusal(request).message()), HasSubstr("min_tokens"));
  request = Ask({1}, 1);
  request.expected_position = 3;
  EXPECT_EQ(refusal(request).code(), absl::StatusCode::kFailedPrecondition);
  request.expected_position = 0;
  EXPECT_TRUE(refusal(request).ok());
}

TEST_P(EngineTest, SessionsAsObjects) {
  Engine& engine = Start();
  EXPECT_EQ(engine.CreateSession("a b", std::nullopt).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(engine.CreateSession("", milliseconds(999)).status().code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(engine.CreateSession("b", milliseconds(5000)).ok());
  EXPECT_EQ(engine.CreateSession("b", std::nullopt).status().code(),
            absl::StatusCode::kAlreadyExists);
  const auto made = engine.CreateSession("", std::nullopt);
  EXPECT_EQ(made->id.size(), 32u);
  EXPECT_NEAR(absl::ToDoubleSeconds(made->expires - made->created), 600, 5);
  EXPECT_EQ(engine.ListSessions("", 10).size(), 2u);
  EXPECT_EQ(engine.GetSession("x").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(engine.Attach("x").status().code(), absl::StatusCode::kNotFound);
  {
    auto lease = engine.Attach("b");
    EXPECT_TRUE(engine.GetSession("b")->busy);
    EXPECT_EQ(engine.Attach("b").status().code(), absl::StatusCode::kAborted);
    EXPECT_EQ(engine.DeleteSession("b").code(), absl::StatusCode::kAborted);
    Reader reader(*engine.Submit(*lease, Ask(Prompt(100), 2)));
    reader.ReadAll();
  }
  EXPECT_FALSE(engine.GetSession("b")->busy);
  AwaitSlotsUsed(1);
  EXPECT_TRUE(engine.DeleteSession("b").ok());
  EXPECT_EQ(engine.DeleteSession("b").code(), absl::StatusCode::kNotFound);
  AwaitSlotsUsed(0);
  EXPECT_EQ(device_.DirtySlots(), 0);
}

TEST_P(EngineTest, IdleSessionsExpire) {
  options_.idle_timeout = milliseconds(50);
  Engine& engine = Start();
  ASSERT_TRUE(engine.CreateSession("short", std::nullopt).ok());
  ASSERT_TRUE(engine.CreateSession("long", milliseconds(60'000)).ok());
  {
    auto lease = engine.Attach("short");
    Reader reader(*engine.Submit(*lease, Ask(Prompt(100), 2)));
    reader.ReadAll();
    std::this_thread::sleep_for(milliseconds(100));
    EXPECT_TRUE(engine.GetSession("short").ok()) << "it is in use";
  }
  AwaitSlotsUsed(0);
  EXPECT_EQ(engine.GetSession("short").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(engine.GetSession("long").ok());
  EXPECT_EQ(engine.Gauges().sessions, 1);
}

TEST_P(EngineTest, StopTokensMinTokensAndInterrupt) {
  Engine& engine = Start();
  FakeSession alone(window_);
  alone.Learn(1);
  SamplingParams params;
  const std::vector<int32_t> free = alone.Generate(20, params);
  auto lease = engine.Attach("");
  EngineRequest request = Ask({1}, 20);
  request.stop_tokens = {free[6], free[2]};
  Reader reader(*engine.Submit(*lease, request));
  EXPECT_EQ(reader.ReadAll().reason, FinishReason::kStopToken);
  EXPECT_EQ(reader.finish->stop_token, free[2]);
  EXPECT_EQ(reader.tokens, std::vector<int32_t>(free.begin(), free.begin() + 3));
  EXPECT_EQ(reader.finish->position, 4);

  auto other = engine.Attach("");
  request.min_tokens = 5;
  Reader banned(*engine.Submit(*other, request));
  banned.ReadAll();
  EXPECT_GE(banned.tokens.size(), 5u);
  EXPECT_NE(banned.tokens[2], free[2]);

  auto third = engine.Attach("");
  Reader endless(*engine.Submit(*third, Ask({1}, INT64_MAX)));
  endless.ReadTokens(3);
  endless.outbox().Interrupt();
  EXPECT_EQ(endless.ReadAll().reason, FinishReason::kInterrupted);
  EXPECT_TRUE(endless.finish->status.ok());
  EXPECT_EQ(endless.finish->position, 1 + static_cast<int64_t>(endless.tokens.size()));
  EXPECT_EQ(third->position(), endless.finish->position);
}

// What was read beyond a stop token, before that was known, leaves no trace.
TEST_P(EngineTest, AStopTokenEndsWhatTheSessionRemembers) {
  Engine& engine = Start();
  ASSERT_TRUE(engine.CreateSession("kept", std::nullopt).ok());
  FakeSession alone(window_);
  SamplingParams params;
  for (int round = 0; round < 40; ++round) {
    const std::vector<int32_t> prompt = Prompt(round % 3 == 0 ? 0 : round, round);
    for (const int32_t token : round == 0 ? Prompt(1) : prompt) {
      alone.Learn(token);
    }
    const std::vector<int32_t> says = FakeSession(alone).Generate(20, params);
    EngineRequest request = Ask(round == 0 ? Prompt(1) : prompt, 20);
    request.stop_tokens = {says[static_cast<size_t>(round % 20)]};
    const auto end = std::find(says.begin(), says.end(), request.stop_tokens[0]) + 1;
    const std::vector<int32_t> expected(says.begin(), end);
    for (const int32_t token : expected) {
      alone.Learn(token);
    }
    auto lease = engine.Attach("kept");
    Reader reader(*engine.Submit(*lease, request));
    EXPECT_EQ(reader.ReadAll().reason, FinishReason::kStopToken);
    EXPECT_EQ(reader.tokens, expected);
    EXPECT_EQ(reader.finish->position, static_cast<int64_t>(alone.tokens.size()));
    EXPECT_EQ(lease->position(), reader.finish->position);
  }
}

TEST_P(EngineTest, TheNextStepIsLaunchedBeforeThisOnesTokensAreKnown) {
  Engine& engine = Start();
  auto lease = engine.Attach("");
  Reader reader(*engine.Submit(*lease, Ask(Prompt(10), 100)));
  reader.ReadAll();
  EXPECT_EQ(device_.steps(), 100) << "none too many: the number of tokens was known";
  EXPECT_EQ(device_.steps_ahead(), GetParam() == 0 ? 0 : 99);
}

TEST_P(EngineTest, AnInterruptedPromptIsStillRead) {
  HoldSteps();
  Engine& engine = Start();
  auto lease = engine.Attach("");
  Reader reader(*engine.Submit(*lease, Ask(Prompt(1000), 100)));
  AwaitHeldStep();
  reader.outbox().Interrupt();
  Go();
  EXPECT_EQ(reader.ReadAll().reason, FinishReason::kInterrupted);
  EXPECT_TRUE(reader.tokens.empty());
  EXPECT_EQ(reader.finish->position, 1000);
}

TEST_P(EngineTest, CancelLeavesTheSessionWhereItStands) {
  HoldSteps();
  Engine& engine = Start();
  ASSERT_TRUE(engine.CreateSession("s", std::nullopt).ok());
  auto lease = engine.Attach("s");
  Reader reader(*engine.Submit(*lease, Ask(Prompt(1000), 100)));
  AwaitHeldStep();
  reader.outbox().Cancel(absl::CancelledError("the client left"));
  Go();
  EXPECT_EQ(reader.ReadAll().status.message(), "the client left");
  EXPECT_EQ(reader.finish->position, 257) << "256 tokens in the state, and the pending one";
  EXPECT_EQ(reader.finish->prompt_tokens, 257);
  const std::vector<int32_t> prompt = Prompt(1000);
  FakeSession alone(window_);
  for (int i = 0; i < 257; ++i) {
    alone.Learn(prompt[static_cast<size_t>(i)]);
  }
  Reader next(*engine.Submit(*lease, Ask({}, 10)));
  next.ReadAll();
  EXPECT_EQ(next.tokens, alone.Generate(10, SamplingParams()));
}

}  // namespace
}  // namespace evenflow
