// An engine on a fake device, for tests of what requests meet.
#ifndef EVENFLOW_TESTS_ENGINE_ENGINE_FIXTURE_H_
#define EVENFLOW_TESTS_ENGINE_ENGINE_FIXTURE_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/mutex.h"

#include "gtest/gtest.h"
#include "tests/engine/fake_device.h"
#include "tests/engine/reader.h"

namespace evenflow {

using std::chrono::milliseconds;

inline std::vector<int32_t> Prompt(int tokens, int salt = 0) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < tokens; ++i) {
    prompt.push_back((i * 37 + salt * 101 + 5) % kFakeVocab);
  }
  return prompt;
}

inline EngineRequest Ask(std::vector<int32_t> prompt, int64_t max_tokens, uint64_t seed = 0) {
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
      MutexLock lock(gate_);
      ++arrived_;
      moved_.NotifyAll();
      while (!go_) {
        moved_.Wait(gate_);
      }
    };
  }

  void AwaitHeldStep() {
    MutexLock lock(gate_);
    while (arrived_ == 0) {
      moved_.Wait(gate_);
    }
  }

  void Go() {
    MutexLock lock(gate_);
    go_ = true;
    moved_.NotifyAll();
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
  Mutex gate_;
  Condition moved_;
  int arrived_ ABSL_GUARDED_BY(gate_) = 0;
  bool go_ ABSL_GUARDED_BY(gate_) = false;
};

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_ENGINE_ENGINE_FIXTURE_H_
