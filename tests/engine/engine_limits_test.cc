// Where requests and the engine reach their limits: deadlines, slow readers, admission, faults,
// draining.
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

TEST_P(EngineTest, Deadlines) {
  options_.max_sessions = 1;
  Engine& engine = Start();
  auto lease = engine.Attach("");
  EngineRequest request = Ask(Prompt(3), INT64_MAX);
  request.deadline = std::chrono::steady_clock::now() + milliseconds(60);
  Reader running(*engine.Submit(*lease, request));
  auto other = engine.Attach("");
  request.deadline = std::chrono::steady_clock::now() + milliseconds(30);
  Reader waiting(*engine.Submit(*other, request));
  EXPECT_EQ(waiting.ReadAll().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(waiting.finish->position, 0);
  EXPECT_EQ(running.ReadAll().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(running.finish->position, 3 + static_cast<int64_t>(running.tokens.size()));
}

TEST_P(EngineTest, ASlowReaderWaitsAloneAndNotForever) {
  options_.outbox_tokens = 10;
  options_.slow_reader_limit = milliseconds(500);
  Engine& engine = Start();
  auto slow_lease = engine.Attach("");
  Reader slow(*engine.Submit(*slow_lease, Ask(Prompt(3), 30)));
  auto late_lease = engine.Attach("");
  Reader late(*engine.Submit(*late_lease, Ask(Prompt(3), 100)));
  auto lease = engine.Attach("");
  Reader reader(*engine.Submit(*lease, Ask(Prompt(3), 1000)));
  EXPECT_EQ(reader.ReadAll().reason, FinishReason::kLength);
  while (!slow.finish) {  // it reads now and then
    std::this_thread::sleep_for(milliseconds(20));
    slow.Take();
    EXPECT_LE(slow.tokens.size(), 30u);
  }
  EXPECT_TRUE(slow.finish->status.ok()) << slow.finish->status;
  while (engine.Gauges().running > 0) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(late.ReadAll().status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(late.finish->status.message()), HasSubstr("did not read its stream"));
  EXPECT_EQ(late.tokens.size(), 10u);
  EXPECT_EQ(late.finish->position, 13);
}

TEST_P(EngineTest, AdmissionIsExact) {
  options_.max_sessions = 2;
  options_.max_queue = 3;
  HoldSteps();
  Engine& engine = Start();
  std::vector<SessionLease> leases;
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < 5; ++i) {
    leases.push_back(*engine.Attach(""));
    auto outbox = engine.Submit(leases.back(), Ask(Prompt(10, i), 20));
    ASSERT_TRUE(outbox.ok()) << i << " " << outbox.status();
    readers.push_back(std::make_unique<Reader>(*outbox));
  }
  auto lease = engine.Attach("");
  const absl::Status refused = engine.Submit(*lease, Ask(Prompt(10), 20)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.message(),
            "all 2 state slots are taken and 3 requests wait already, as many as may");
  EXPECT_EQ(engine.Gauges().running + engine.Gauges().waiting, 5);
  readers[4]->outbox().Cancel(absl::CancelledError("tired of waiting"));
  Go();
  EXPECT_EQ(readers[4]->ReadAll().status.code(), absl::StatusCode::kCancelled);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(readers[i]->ReadAll().status.ok());
    leases[i] = SessionLease();
  }
  EXPECT_TRUE(engine.Submit(*lease, Ask(Prompt(10), 20)).ok());
}

TEST_P(EngineTest, BadLogitsQuarantineOneSessionOnly) {
  device_.bad_logits = [](const Row& row) { return row.slot == 0 && row.position >= 12; };
  Engine& engine = Start();
  ASSERT_TRUE(engine.CreateSession("bad", std::nullopt).ok());
  {
    auto bad = engine.Attach("bad");
    Reader reader(*engine.Submit(*bad, Ask(Prompt(10), 20)));
    reader.ReadTokens(1);
    auto good = engine.Attach("");
    Reader neighbour(*engine.Submit(*good, Ask(Prompt(10), 50)));
    EXPECT_EQ(reader.ReadAll().status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(reader.finish->status.message()), HasSubstr("non-finite logits"));
    EXPECT_EQ(reader.tokens.size(), 3u);
    EXPECT_EQ(reader.finish->position, 13);
    EXPECT_EQ(engine.Submit(*bad, Ask({}, 1)).status().code(),
              absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(neighbour.ReadAll().status.ok());
    EXPECT_EQ(neighbour.tokens.size(), 50u);
  }
  EXPECT_TRUE(engine.GetSession("bad")->quarantined);
  EXPECT_EQ(engine.Gauges().quarantined, 1);
  EXPECT_EQ(engine.Attach("bad").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(engine.DeleteSession("bad").ok());
  EXPECT_EQ(engine.Gauges().quarantined, 0);
  AwaitSlotsUsed(0);
}

TEST_P(EngineTest, BadStatesAreFoundAtCommits) {
  std::atomic<int> observed{0};
  observer_.on_state_health = [&observed](int, const StateHealth&) { ++observed; };
  device_.bad_state = [](const Row& row) { return row.position > 100; };
  Engine& engine = Start();
  auto lease = engine.Attach("");
  Reader reader(*engine.Submit(*lease, Ask(Prompt(10), 200)));
  EXPECT_EQ(reader.ReadAll().status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(reader.finish->status.message()), HasSubstr("memory has gone bad"));
  EXPECT_GT(observed, 3);
}

TEST_P(EngineTest, OutOfMemoryEndsStreamsNotTheProcess) {
  std::atomic<bool> fail{false};
  device_.on_launch = [&fail](const FakeDevice::Step&) {
    if (fail.exchange(false)) {
      throw std::bad_alloc();
    }
  };
  Engine& engine = Start();
  ASSERT_TRUE(engine.CreateSession("s", std::nullopt).ok());
  auto lease = engine.Attach("s");
  Reader reader(*engine.Submit(*lease, Ask(Prompt(10), INT64_MAX)));
  reader.ReadTokens(5);
  fail = true;
  EXPECT_EQ(reader.ReadAll().status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(reader.finish->status.message()), HasSubstr("out of memory"));
  EXPECT_TRUE(engine.GetSession("s")->quarantined);
  auto next = engine.Attach("");
  Reader after(*engine.Submit(*next, Ask(Prompt(10), 5)));
  EXPECT_TRUE(after.ReadAll().status.ok());
}

TEST_P(EngineTest, ALostDeviceEndsEveryRequest) {
  std::atomic<bool> fail = false;
  device_.on_launch = [&](const FakeDevice::Step&) {
    if (fail) {
      device_.failure = "the device is lost";
    }
  };
  options_.max_sessions = 1;
  Engine& engine = Start();
  auto lease = std::make_unique<SessionLease>(*engine.Attach(""));
  auto waits = engine.Attach("");
  Reader running(*engine.Submit(*lease, Ask(Prompt(10), INT64_MAX)));
  Reader waiting(*engine.Submit(*waits, Ask(Prompt(10), 5)));
  running.ReadTokens(5);
  fail = true;
  const absl::Status ran = running.ReadAll().status;
  lease.reset();  // its slot goes to the one who waits
  const absl::Status waited = waiting.ReadAll().status;
  for (const absl::Status& status : {ran, waited}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), HasSubstr("the device is lost"));
  }
}

TEST_P(EngineTest, StatesThatDoNotFitAreRefused) {
  device_.out_of_memory = true;
  EXPECT_EQ(Engine::Create(options_, device_.NewModel(), device_, {}).status().code(),
            absl::StatusCode::kResourceExhausted);
  device_.out_of_memory = false;
  options_.step_tokens = 64;
  EXPECT_EQ(Engine::Create(options_, device_.NewModel(), device_, {}).status().message(),
            "step_tokens is 64; it must be at least 65");
}

TEST_P(EngineTest, DrainWaitsThenEndsTheRest) {
  Engine& engine = Start();
  ASSERT_TRUE(engine.CreateSession("s", std::nullopt).ok());
  auto brief = engine.Attach("");
  auto endless = engine.Attach("s");
  Reader first(*engine.Submit(*brief, Ask(Prompt(10), 50)));
  Reader second(*engine.Submit(*endless, Ask(Prompt(10), INT64_MAX)));
  std::thread reads([&second] { second.ReadAll(); });
  engine.Drain(std::chrono::steady_clock::now() + milliseconds(100));
  reads.join();
  EXPECT_TRUE(first.ReadAll().status.ok());
  EXPECT_EQ(second.finish->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(engine.Attach("").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(engine.CreateSession("", std::nullopt).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(engine.Submit(*endless, Ask({}, 1)).status().code(), absl::StatusCode::kUnavailable);
}

TEST_P(EngineTest, TheEndOfTheEngineEndsRequests) {
  options_.max_sessions = 1;
  Engine& engine = Start();
  auto lease = engine.Attach("");
  auto waits = engine.Attach("");
  Reader running(*engine.Submit(*lease, Ask(Prompt(10), INT64_MAX)));
  Reader waiting(*engine.Submit(*waits, Ask(Prompt(10), INT64_MAX)));
  running.ReadTokens(1);
  engine_.reset();
  EXPECT_EQ(running.ReadAll().status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(waiting.ReadAll().status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(running.finishes, 1);
  running.outbox().Interrupt();  // nobody listens any more
}

TEST_P(EngineTest, AnIdleEngineDoesNotSpin) {
  std::atomic<int> steps{0};
  observer_.on_step = [&steps](const EngineObserver::Step& step) {
    EXPECT_GT(step.rows, 0);
    ++steps;
  };
  options_.outbox_tokens = 4;
  Engine& engine = Start();
  auto lease = engine.Attach("");
  Reader reader(*engine.Submit(*lease, Ask(Prompt(10), 100)));
  while (steps < 4) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(steps, 4) << "paused: nothing to do";
  EXPECT_EQ(engine.Gauges().running, 1);
  reader.ReadAll();
  EXPECT_EQ(engine.Gauges().running, 0);
  EXPECT_EQ(steps, 100);
}

}  // namespace
}  // namespace evenflow
