// After a stop string the session is, to the bit, as if the hidden tokens had never been: wherever
// the string lies among tokens, commits, checkpoints and steps.
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "engine/engine.h"

#include "gtest/gtest.h"
#include "tests/engine/fake_device.h"
#include "tests/engine/reader.h"
#include "tests/engine/stop_checker.h"

namespace evenflow {
namespace {

struct Shape {
  Window window;
  int depth;
  int history;
};

class StopStringTest : public ::testing::TestWithParam<Shape> {
 protected:
  ~StopStringTest() override {
    engine_.reset();
    EXPECT_EQ(device_.complaint(), "");
  }

  void Start() {
    options_.history_tokens = GetParam().history;
    options_.max_sessions = 4;
    engine_ = *Engine::Create(options_, device_.NewModel(), device_, {});
  }

  // Reads and checks until the end.
  static void Serve(Reader& reader, StopChecker& checker) {
    while (!reader.finish) {
      checker.Check(reader.tokens, reader.outbox());
      reader.ReadTokens(reader.tokens.size() + 1);
    }
  }

  FakeDevice device_{GetParam().window, GetParam().depth};
  EngineOptions options_;
  std::unique_ptr<Engine> engine_;
};

INSTANTIATE_TEST_SUITE_P(Shapes, StopStringTest,
                         ::testing::Values(Shape{{16, 2}, 0, 1024}, Shape{{16, 2}, 1, 50},
                                           Shape{{7, 2}, 0, 20}, Shape{{1, 2}, 0, 300},
                                           Shape{{4, 0}, 0, 64}, Shape{{8, 5}, 1, 64}));

TEST_P(StopStringTest, LeavesTheSessionAsIfTheTextHadNeverBeen) {
  Start();
  std::mt19937 random(3);
  const auto below = [&random](int n) {
    return static_cast<int>(random() % static_cast<unsigned>(n));
  };
  // A neighbour streams all the while.
  auto neighbour_lease = engine_->Attach("");
  EngineRequest endless;
  endless.prompt = {1};
  endless.max_tokens = INT64_MAX;
  Reader neighbour(*engine_->Submit(*neighbour_lease, endless));
  for (int trial = 0; trial < 30; ++trial) {
    SCOPED_TRACE(trial);
    const std::string id = "s" + std::to_string(trial);
    ASSERT_TRUE(engine_->CreateSession(id, std::nullopt).ok());
    auto lease = engine_->Attach(id);
    FakeSession alone(GetParam().window, GetParam().history);
    // Several responses one after the other on the same lease, each with a stop string.
    for (int response = 0; response < 3; ++response) {
      EngineRequest request;
      for (int n = below(4) == 0 ? below(400) : below(30) + (response == 0 ? 1 : 0); n > 0; --n) {
        request.prompt.push_back(below(kFakeVocab));
      }
      if (response == 0 && request.prompt.empty()) {
        request.prompt.push_back(1);
      }
      request.sampling.seed = static_cast<uint64_t>(trial);
      request.max_tokens = 400;
      request.has_stop_strings = true;
      for (const int32_t token : request.prompt) {
        alone.Learn(token);
      }
      // The string is what the session is going to say at `begin`; others only begin like that.
      const std::vector<int32_t> says = FakeSession(alone).Generate(400, request.sampling);
      const int begin = below(3) == 0 ? below(300) : below(20);
      const int length = 1 + (below(3) == 0 ? below(60) : below(4));
      std::vector<std::vector<int32_t>> stops(2);
      stops[0].assign(says.begin() + begin, says.begin() + begin + length);
      stops[1].assign(says.begin() + begin / 2, says.begin() + begin / 2 + 9);
      stops[1].push_back(kFakeVocab);  // never said
      std::vector<int32_t> tail;
      for (int n = below(3); n > 0; --n) {
        tail.push_back(below(kFakeVocab));
      }
      StopChecker checker(stops, tail);
      Reader reader(*engine_->Submit(*lease, request));
      Serve(reader, checker);
      ASSERT_TRUE(reader.finish->status.ok()) << reader.finish->status;
      ASSERT_EQ(reader.finish->reason, FinishReason::kStopString);
      ASSERT_TRUE(checker.kept().has_value());
      for (int64_t i = 0; i < *checker.kept(); ++i) {
        ASSERT_EQ(reader.tokens[static_cast<size_t>(i)], says[static_cast<size_t>(i)]);
        alone.Learn(says[static_cast<size_t>(i)]);
      }
      for (const int32_t token : tail) {
        alone.Learn(token);
      }
      ASSERT_EQ(reader.finish->position, static_cast<int64_t>(alone.tokens.size()));
      ASSERT_EQ(reader.finish->generated_tokens,
                *checker.kept() + static_cast<int64_t>(tail.size()));
      ASSERT_EQ(lease->position(), reader.finish->position);
      ASSERT_LE(reader.tokens.size(),
                static_cast<size_t>(begin + length + std::max(1, GetParam().window.rollback)));
    }
    // What it says next depends on every bit of its state and on all remembered tokens.
    EngineRequest next;
    next.max_tokens = 5;
    Reader reader(*engine_->Submit(*lease, next));
    reader.ReadAll();
    ASSERT_EQ(reader.tokens, alone.Generate(5, next.sampling));
    const FakeState state = device_.StateOf(1);
    ASSERT_EQ(std::memcmp(&state, &alone.state, sizeof state), 0);
    lease = SessionLease();
    ASSERT_TRUE(engine_->DeleteSession(id).ok());
    while (engine_->Gauges().slots_used != 1) {
    }
    neighbour.Take();
  }
}

TEST_P(StopStringTest, NeverRunsFurtherAheadOfTheCheckThanR) {
  Start();
  const int lead = std::max(1, GetParam().window.rollback);
  auto lease = engine_->Attach("");
  EngineRequest request;
  request.prompt = {1, 2, 3};
  request.max_tokens = 200;
  request.has_stop_strings = true;
  Reader reader(*engine_->Submit(*lease, request));
  for (int64_t checked = 0; checked < 200; ++checked) {
    const auto may = static_cast<size_t>(std::min<int64_t>(checked + 1, 200));
    reader.ReadTokens(may);
    ASSERT_LE(reader.tokens.size(), static_cast<size_t>(checked + lead));
    ASSERT_FALSE(reader.finish.has_value()) << "not before everything is checked";
    reader.outbox().Confirm(checked + 1, checked % 3 == 0 ? checked + 1 : 0);
  }
  EXPECT_EQ(reader.ReadAll().reason, FinishReason::kLength);
  EXPECT_EQ(reader.tokens.size(), 200u);
}

TEST_P(StopStringTest, WaitsForACheckpoint) {
  options_.max_checkpoints = 1;
  Start();
  std::vector<SessionLease> leases;
  std::vector<std::unique_ptr<Reader>> readers;
  EngineRequest request;
  request.max_tokens = 100;
  request.has_stop_strings = true;
  for (int32_t i = 0; i < 4; ++i) {
    request.prompt.assign(1 + static_cast<size_t>(i) * 40, i);
    leases.push_back(*engine_->Attach(""));
    readers.push_back(std::make_unique<Reader>(*engine_->Submit(leases.back(), request)));
  }
  request.has_stop_strings = false;  // of the others nothing is asked
  Reader free(*engine_->Submit(leases.emplace_back(*engine_->Attach("")), request));
  int begun = 0;
  bool done[4] = {};
  for (int finished = 0; finished < 4;) {
    begun = 0;
    for (size_t i = 0; i < 4; ++i) {
      Reader& reader = *readers[i];
      reader.Take();
      StopChecker({}, {}).Check(reader.tokens, reader.outbox());
      if (reader.finish && !done[i]) {
        EXPECT_EQ(reader.tokens.size(), 100u);
        done[i] = true;
        ++finished;
        leases[i] = SessionLease();
      }
      begun += !reader.finish && !reader.tokens.empty() ? 1 : 0;
    }
    EXPECT_LE(begun, 2) << "one, and one that has ended since";
    free.Take();
  }
  EXPECT_EQ(free.ReadAll().reason, FinishReason::kLength);
}

TEST_P(StopStringTest, AStopBeforeWhatWasConfirmedIsRefused) {
  Start();
  auto lease = engine_->Attach("");
  EngineRequest request;
  request.prompt = {1, 2, 3};
  request.max_tokens = 200;
  request.has_stop_strings = true;
  Reader reader(*engine_->Submit(*lease, request));
  StopChecker checker({}, {});
  while (reader.tokens.size() < 150) {
    reader.ReadTokens(reader.tokens.size() + 1);
    checker.Check(reader.tokens, reader.outbox());
  }
  reader.outbox().StopAt({3, {}});
  EXPECT_EQ(reader.ReadAll().status.code(), absl::StatusCode::kInternal);
}

TEST_P(StopStringTest, TheLeaseMayGoWhileTheSessionGoesBack) {
  Start();
  for (int trial = 0; trial < 50; ++trial) {
    auto lease = engine_->Attach("");
    EngineRequest request;
    request.prompt.assign(static_cast<size_t>(1 + trial * 5), 7);
    request.max_tokens = 200;
    request.has_stop_strings = true;
    Reader reader(*engine_->Submit(*lease, request));
    reader.ReadTokens(1);
    StopChecker checker({{reader.tokens[0]}}, {});
    Serve(reader, checker);
    EXPECT_EQ(reader.finish->reason, FinishReason::kStopString);
    EXPECT_EQ(reader.finish->position, 1 + trial * 5);
  }
  while (engine_->Gauges().slots_used != 0) {
  }
  EXPECT_EQ(device_.DirtySlots(), 0) << "checkpoints included";
}

}  // namespace
}  // namespace evenflow
