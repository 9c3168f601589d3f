// What an engine does before it takes requests, where a device records steps.
#include <utility>
#include <vector>

#include "engine/engine.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/fake_device.h"

namespace evenflow {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

class WarmUpTest : public testing::Test {
 protected:
  WarmUpTest() {
    options_.max_sessions = 5;
    options_.max_rows = 4;
    options_.step_tokens = 100;
    device_.recorded_sizes = {1, 2, 4};
    device_.on_launch = [this](const FakeDevice::Step& step) {
      steps_.emplace_back(step.rows.size(), step.tokens.size());
    };
  }

  EngineOptions options_;
  FakeDevice device_;
  std::vector<std::pair<size_t, size_t>> steps_;  // rows, tokens
};

TEST_F(WarmUpTest, RunsEachSizeTwiceAndLeavesNoTrace) {
  int sizes = 0;
  EngineObserver observer;
  observer.on_warm_up = [&sizes](int n, double) { sizes = n; };
  auto engine = *Engine::Create(options_, device_.NewModel(), device_, observer);
  EXPECT_EQ(sizes, 3);
  EXPECT_THAT(steps_, ElementsAre(Pair(1, 100), Pair(4, 4), Pair(4, 4), Pair(2, 2), Pair(2, 2),
                                  Pair(1, 1), Pair(1, 1)));
  EXPECT_EQ(device_.DirtySlots(), 0);
  EXPECT_EQ(engine->Gauges().slots_used, 0);

  SessionLease lease = *engine->Attach("");
  EngineRequest request;
  request.prompt = {1, 2, 3};
  request.max_tokens = 20;
  const auto outbox = *engine->Submit(lease, request);
  TokenEvents events;
  std::optional<FinishEvent> finish;
  std::vector<int32_t> tokens;
  while (!finish) {
    outbox->Take(&events, &finish);
    for (const auto& event : events) {
      tokens.push_back(event.sampled.token);
    }
    events.clear();
  }
  FakeSession alone({});
  for (const int32_t token : request.prompt) {
    alone.Learn(token);
  }
  EXPECT_EQ(tokens, alone.Generate(20, request.sampling));
  engine.reset();
  EXPECT_EQ(device_.complaint(), "");
}

TEST_F(WarmUpTest, ADeviceThatFailsThenServesNobody) {
  device_.on_launch = [this](const FakeDevice::Step& step) {
    if (step.rows.size() == 2) {
      device_.failure = "the device is lost";
    }
  };
  const auto engine = Engine::Create(options_, device_.NewModel(), device_, {});
  EXPECT_EQ(engine.status(), absl::UnavailableError("the device is lost"));
}

TEST_F(WarmUpTest, WithoutRecordingThereIsNothingToDo) {
  device_.recorded_sizes.clear();
  const auto engine = Engine::Create(options_, device_.NewModel(), device_, {});
  EXPECT_TRUE(engine.ok());
  EXPECT_TRUE(steps_.empty());
}

}  // namespace
}  // namespace evenflow
