// What a request meets: streams, sessions, ends and their reasons, limits, faults.
#include "engine/engine.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/fake_device.h"
#include "tests/engine/reader.h"

namespace evenflow {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int32_t> Prompt(int tokens, int salt = 0) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < tokens; ++i) {
    prompt.push_back((i * 37 + salt * 101 + 5) % kFakeVocab);
  }
  return prompt;
}

EngineRequest Ask(std::vector<int32_t> prompt, int64_t max_tokens, uint64_t seed = 0) {
  EngineRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.seed = seed;
  return request;
}

// An engine on a fake device; the parameter is the device's pipeline depth.
class EngineTest : public ::testing::TestWithParam<int> {
 protected:
  ~EngineTest() override {
    engine_.reset();
    EXPECT_EQ(device_.complaint(), "");
  }

  Engine& Start() {
    auto engine = Engine::Create(options_, device_.NewModel(), device_, observer_);
    EXPECT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    return *engine_;
  }

  // Lets steps wait until Go is called.
  void HoldSteps() {
    device_.on_launch = [this](const FakeDevice::Step&) {
      absl::MutexLock lock(&gate_);
      ++arrived_;
      gate_.Await(absl::Condition(&go_));
    };
  }

  void AwaitHeldStep() {
    absl::MutexLock lock(&gate_);
    const auto held = [this] { return arrived_ > 0; };
    gate_.Await(absl::Condition(&held));
  }

  void Go() {
    absl::MutexLock lock(&gate_);
    go_ = true;
  }

  void AwaitSlotsUsed(int count) {
    while (engine_->Gauges().slots_used != count) {
      std::this_thread::sleep_for(milliseconds(1));
    }
  }

  const Window window_;
  FakeDevice device_{window_, GetParam()};
  EngineOptions options_;
  EngineObserver observer_;
  std::unique_ptr<Engine> engine_;
  absl::Mutex gate_;
  int arrived_ = 0;
  bool go_ = false;
};

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
    std::vector<std::thread> threads;
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

}  // namespace
}  // namespace evenflow
