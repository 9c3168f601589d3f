// Many clients that cancel, stall, leave, interrupt and come back under load: every accepted
// request ends exactly once, what was streamed is right, and nothing is left behind.
#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"

#include "gtest/gtest.h"
#include "tests/engine/fake_device.h"
#include "tests/engine/reader.h"
#include "tests/engine/stop_checker.h"

namespace evenflow {
namespace {

using std::chrono::milliseconds;

struct Tally {
  std::atomic<int> accepted{0};
  std::atomic<int> refused{0};
  std::atomic<int> finished{0};
  std::atomic<int> ended_well{0};
};

class RandomClient {
 public:
  RandomClient(Engine& engine, Tally& tally, const Window& window, unsigned seed)
      : engine_(engine),
        tally_(tally),
        window_(window),
        name_("c" + std::to_string(seed)),
        random_(seed) {}

  void Run(int requests) {
    for (int i = 0; i < requests; ++i) {
      const bool keep = Below(3) == 0;
      const std::string id = keep ? name_ + "-" + std::to_string(i) : "";
      if (keep && !engine_.CreateSession(id, std::nullopt).ok()) {
        continue;
      }
      auto lease = engine_.Attach(id);
      ASSERT_TRUE(lease.ok()) << lease.status();
      FakeSession alone(window_);
      for (int n = 1 + Below(3); n > 0 && One(*lease, &alone); --n) {
      }
      if (keep && Below(2) == 0) {
        EXPECT_EQ(engine_.DeleteSession(id).code(), absl::StatusCode::kAborted);
      }
      lease = SessionLease();
      if (keep) {
        EXPECT_TRUE(engine_.DeleteSession(id).ok());
      }
    }
  }

 private:
  int Below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }

  // One request. False when the session's tokens are not known any more.
  bool One(SessionLease& lease, FakeSession* alone) {
    EngineRequest request;
    for (int n = 1 + Below(Below(5) == 0 ? 600 : 40); n > 0; --n) {
      request.prompt.push_back(Below(kFakeVocab));
    }
    request.generate = Below(8) != 0;
    request.max_tokens = 1 + Below(60);
    request.sampling.seed = random_();
    request.client = name_;
    request.priority = Below(5);
    request.has_stop_strings = Below(3) == 0;
    if (Below(6) == 0) {
      request.deadline = std::chrono::steady_clock::now() + milliseconds(Below(10));
    }
    FakeSession after = *alone;
    for (const int32_t token : request.prompt) {
      after.Learn(token);
    }
    std::vector<int32_t> says =
        FakeSession(after).Generate(static_cast<int>(request.max_tokens), request.sampling);
    if (Below(3) == 0) {
      request.stop_tokens = {says[static_cast<size_t>(Below(static_cast<int>(says.size())))]};
      says.erase(std::find(says.begin(), says.end(), request.stop_tokens[0]) + 1, says.end());
    }
    auto outbox = engine_.Submit(lease, request);
    if (!outbox.ok()) {
      EXPECT_EQ(outbox.status().code(), absl::StatusCode::kResourceExhausted) << outbox.status();
      ++tally_.refused;
      return false;
    }
    ++tally_.accepted;
    *alone = after;
    Reader reader(*outbox);
    Serve(reader, request);
    reader.Take();
    EXPECT_EQ(reader.finishes, 1);
    tally_.finished += reader.finishes;
    EXPECT_LE(reader.tokens.size(), says.size());
    for (size_t i = 0; i < reader.tokens.size(); ++i) {
      EXPECT_EQ(reader.tokens[i], says[i]);
      alone->Learn(says[i]);
    }
    const bool well =
        reader.finish->status.ok() && reader.finish->reason != FinishReason::kStopString;
    tally_.ended_well += well ? 1 : 0;
    if (well) {
      EXPECT_EQ(reader.finish->position, static_cast<int64_t>(alone->tokens.size()));
    }
    return well;
  }

  void Serve(Reader& reader, const EngineRequest& request) {
    const int mood = Below(6);
    StopChecker checker({}, {});
    while (!reader.finish) {
      reader.ReadTokens(reader.tokens.size() + 1);
      if (request.has_stop_strings) {
        if (mood == 5 && !reader.tokens.empty() && Below(10) == 0) {
          // Whatever was not confirmed may go.
          reader.outbox().StopAt({static_cast<int64_t>(reader.tokens.size()) - 1, {3, 4}});
        } else {
          checker.Check(reader.tokens, reader.outbox());
        }
      }
      if (mood == 1 && Below(10) == 0) {
        reader.outbox().Cancel(absl::CancelledError("the client left"));
      } else if (mood == 2 && Below(10) == 0) {
        reader.outbox().Interrupt();
      } else if (mood == 3 && Below(4) == 0) {
        std::this_thread::sleep_for(milliseconds(Below(8)));  // past the slow reader's limit
      }
    }
  }

  Engine& engine_;
  Tally& tally_;
  const Window window_;
  const std::string name_;
  std::mt19937 random_;
};

class LifecycleTest : public ::testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(PipelineDepth, LifecycleTest, ::testing::Values(0, 1));

// With host memory for the states of so many idle sessions.
void ClientsComeAndGo(int pipeline_depth, int host_slots) {
  const Window window;
  FakeDevice device(window, pipeline_depth);
  device.copy_polls = 2;
  EngineOptions options;
  options.max_sessions = 5;
  options.host_memory_bytes = host_slots * int64_t{sizeof(FakeState)};
  options.max_queue = 4;
  options.outbox_tokens = 6;
  options.slow_reader_limit = milliseconds(4);
  options.step_tokens = 130;
  options.max_rows = 4;
  Tally tally;
  auto engine = *Engine::Create(options, device.NewModel(), device, {});
  std::vector<std::thread> clients;
  for (unsigned i = 0; i < 12; ++i) {
    clients.emplace_back([&, i] { RandomClient(*engine, tally, window, i + 1).Run(25); });
  }
  for (std::thread& client : clients) {
    client.join();
  }
  EXPECT_EQ(tally.finished, tally.accepted);
  EXPECT_GT(tally.ended_well, 20);
  EXPECT_GT(tally.refused, 0);
  for (int i = 0; engine->Gauges().slots_used > 0; ++i) {
    ASSERT_LT(i, 5000) << "slots are not given back";
    std::this_thread::sleep_for(milliseconds(1));
  }
  while (engine->Gauges().host_slots_used > 0) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  const EngineGauges gauges = engine->Gauges();
  EXPECT_EQ(gauges.moved_out > 0, host_slots > 0);
  EXPECT_EQ(gauges.running, 0);
  EXPECT_EQ(gauges.waiting, 0);
  EXPECT_EQ(gauges.sessions, 0);
  engine->Drain(std::chrono::steady_clock::now());
  EXPECT_EQ(device.DirtySlots(), 0);
  EXPECT_EQ(device.DirtyHostBytes(), 0);
  engine.reset();
  EXPECT_EQ(device.complaint(), "");
}

TEST_P(LifecycleTest, EveryAcceptedRequestEndsExactlyOnce) {
  ClientsComeAndGo(GetParam(), 0);
}

TEST_P(LifecycleTest, AlsoWhereStatesMove) {
  ClientsComeAndGo(GetParam(), 4);
}

// Half of the streams are cancelled at random points: the other half says what it would say alone.
TEST_P(LifecycleTest, CancellingHalfLeavesTheOtherHalfUntouched) {
  const Window window;
  FakeDevice device(window, GetParam());
  EngineOptions options;
  options.max_sessions = 64;
  auto engine = *Engine::Create(options, device.NewModel(), device, {});
  std::vector<SessionLease> leases;
  std::vector<std::unique_ptr<Reader>> readers;
  std::mt19937 random(5);
  for (uint64_t i = 0; i < 64; ++i) {
    EngineRequest request;
    request.prompt.assign(1 + random() % 200, static_cast<int32_t>(i));
    request.max_tokens = 100;
    request.sampling.seed = i;
    leases.push_back(*engine->Attach(""));
    readers.push_back(std::make_unique<Reader>(*engine->Submit(leases.back(), request)));
    FakeSession alone(window);
    for (const int32_t token : request.prompt) {
      alone.Learn(token);
    }
    if (i % 2 == 0) {
      readers.back()->ReadTokens(random() % 3);
      readers.back()->outbox().Cancel(absl::CancelledError("left"));
    }
  }
  random.seed(5);
  for (uint64_t i = 0; i < 64; ++i) {
    FakeSession alone(window);
    for (auto n = 1 + random() % 200; n > 0; --n) {
      alone.Learn(static_cast<int32_t>(i));
    }
    SamplingParams params;
    params.seed = i;
    std::vector<int32_t> says = alone.Generate(100, params);
    const FinishEvent& finish = readers[i]->ReadAll();
    if (i % 2 == 0) {
      random();
      EXPECT_TRUE(finish.status.ok() || finish.status.code() == absl::StatusCode::kCancelled);
      says.resize(readers[i]->tokens.size());
    }
    EXPECT_EQ(readers[i]->tokens, says) << i;
  }
  leases.clear();
  while (engine->Gauges().slots_used > 0) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_EQ(device.DirtySlots(), 0);
}

}  // namespace
}  // namespace evenflow
