// The engine with real models on the CPU backend, as it is and with a step under way while the next
// one is planned: after a stop string, the bytes of the session's state are those of a session that
// never generated the hidden text; streams do not depend on load, nor on whether a session's state
// was in host memory between its requests.
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/model/model.h"

#include "gtest/gtest.h"
#include "tests/engine/reader.h"
#include "tests/engine/stop_checker.h"
#include "tests/support/pipelined_backend.h"

namespace evenflow {
namespace {

// A model that tells where the engine keeps the states.
class WatchedModel : public Forwarder {
 public:
  WatchedModel(std::unique_ptr<Model> model, Slots* slots)
      : model_(std::move(model)), slots_(slots) {}

  const ModelInfo& info() const override { return model_->info(); }

  const Window& window() const override { return model_->window(); }

  size_t slot_bytes() const override { return model_->slot_bytes(); }

  void Forward(const Slots& slots) override {
    *slots_ = slots;
    model_->Forward(slots);
  }

  const Matrix& logits() const override { return model_->logits(); }

 private:
  const std::unique_ptr<Model> model_;
  Slots* const slots_;
};

struct Case {
  std::string model;
  Window window;
};

// The second parameter is the backend's pipeline depth.
class RealModelTest : public ::testing::TestWithParam<std::tuple<Case, int>> {
 protected:
  void SetUp() override { Start(std::get<int>(GetParam())); }

  void Start(int depth, const EngineOptions& engine_options = {}) {
    const Case& wanted = std::get<Case>(GetParam());
    engine_.reset();
    backend_ = CreateCpuBackend({.threads = 2});
    if (depth == 1) {
      backend_ = std::make_unique<PipelinedBackend>(std::move(backend_));
    }
    ModelOptions options;
    options.window = wanted.window;
    auto model =
        Model::Load(EVENFLOW_SOURCE_DIR "/tests/goldens/" + wanted.model, options, *backend_);
    ASSERT_TRUE(model.ok()) << model.status();
    vocab_ = (*model)->info().vocab_size;
    auto engine = Engine::Create(
        engine_options, std::make_unique<WatchedModel>(*std::move(model), &slots_), *backend_, {});
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  void TearDown() override { engine_.reset(); }

  std::vector<int32_t> RandomTokens(size_t count) {
    std::vector<int32_t> tokens;
    while (tokens.size() < count) {
      tokens.push_back(static_cast<int32_t>(random_() % static_cast<unsigned>(vocab_)));
    }
    return tokens;
  }

  std::vector<int32_t> Ask(SessionLease& lease, EngineRequest request) {
    auto outbox = engine_->Submit(lease, std::move(request));
    EXPECT_TRUE(outbox.ok()) << outbox.status();
    Reader reader(*outbox);
    EXPECT_TRUE(reader.ReadAll().status.ok()) << reader.finish->status;
    return reader.tokens;
  }

  // The engine must be at rest.
  std::vector<char> StateOf(int slot) {
    std::vector<char> bytes(slots_.slot_bytes);
    backend_->Download(bytes.data(), slots_.base + static_cast<size_t>(slot) * slots_.slot_bytes,
                       bytes.size());
    return bytes;
  }

  std::mt19937 random_{11};
  std::unique_ptr<Backend> backend_;
  int vocab_ = 0;
  Slots slots_;
  std::unique_ptr<Engine> engine_;
};

INSTANTIATE_TEST_SUITE_P(
    Models, RealModelTest,
    ::testing::Combine(::testing::Values(Case{"retnet-a", {16, 2}}, Case{"retnet-a", {1, 2}},
                                         Case{"linear_attn-a", {16, 2}},
                                         Case{"delta_net-a", {7, 2}},
                                         Case{"gated_deltanet-a", {16, 1}},
                                         Case{"gated_deltanet-a", {1, 2}},
                                         Case{"retnet-hybrid-bias", {16, 2}},
                                         Case{"gated_deltanet-hybrid-list", {7, 2}}),
                       ::testing::Values(0, 1)));

TEST_P(RealModelTest, StopStringsLeaveTheStateAsIfTheTextHadNeverBeen) {
  for (uint64_t trial = 0; trial < 8; ++trial) {
    SCOPED_TRACE(trial);
    auto stopped = engine_->Attach("");  // slot 0 ...
    auto twin = engine_->Attach("");     // ... and slot 1, as long as nothing else runs
    EngineRequest request;
    request.prompt = RandomTokens(1 + random_() % 150);
    request.max_tokens = 150;
    request.sampling.seed = trial;
    auto oracle = engine_->Attach("");
    const std::vector<int32_t> says = Ask(*oracle, request);
    oracle = SessionLease();
    while (engine_->Gauges().slots_used > 0) {
    }
    const auto begin = static_cast<std::ptrdiff_t>(random_() % (trial % 2 == 0 ? 100 : 12));
    const auto length = static_cast<std::ptrdiff_t>(1 + random_() % (trial % 3 == 0 ? 40 : 3));
    const std::vector<int32_t> tail = RandomTokens(trial % 3);
    StopChecker checker({{says.begin() + begin, says.begin() + begin + length}}, tail);

    EngineRequest stopping = request;
    stopping.has_stop_strings = true;
    Reader reader(*engine_->Submit(*stopped, stopping));
    while (!reader.finish) {
      checker.Check(reader.tokens, reader.outbox());
      reader.ReadTokens(reader.tokens.size() + 1);
    }
    ASSERT_EQ(reader.finish->reason, FinishReason::kStopString);

    EngineRequest kept = request;
    kept.generate = *checker.kept() > 0;
    kept.max_tokens = *checker.kept();
    Ask(*twin, kept);
    for (const int32_t token : tail) {
      EngineRequest read;
      read.prompt = {token};
      read.generate = false;
      Ask(*twin, read);
    }
    ASSERT_EQ(stopped->position(), twin->position());
    EngineRequest next;
    next.max_tokens = 3;
    EXPECT_EQ(Ask(*stopped, next), Ask(*twin, next));
    const std::vector<char> a = StateOf(0);
    const std::vector<char> b = StateOf(1);
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size()), 0);
    stopped = SessionLease();
    twin = SessionLease();
    while (engine_->Gauges().slots_used > 0) {
    }
  }
}

// What each says alone is taken from a backend without a step under way.
TEST_P(RealModelTest, StreamsTogetherSayWhatEachSaysAlone) {
  std::vector<EngineRequest> requests(64);
  std::vector<std::vector<int32_t>> alone, going_on;
  Start(0);
  for (size_t i = 0; i < requests.size(); ++i) {
    EngineRequest& request = requests[i];
    request.prompt = RandomTokens(1 + random_() % (i % 2 == 0 ? 200 : 20));
    request.max_tokens = 30;
    request.sampling.seed = i;
    request.sampling.temperature = i % 4 == 0 ? 0.f : 1.f;
    if (i % 3 == 0) {
      request.sampling.repetition_penalty = 1.3f;
      request.sampling.frequency_penalty = 0.7f;
      request.sampling.presence_penalty = 0.4f;
      request.sampling.penalty_decay = i % 6 == 0 ? 0.9f : 1.f;
      request.sampling.penalty_last_n = i % 5 == 0 ? 1 : 16;
    }
    if (i % 5 == 1) {  // ends, as a rule, at one of them
      request.stop_tokens = RandomTokens(static_cast<size_t>(vocab_ / 16));
      request.min_tokens = static_cast<int64_t>(i % 4);
    }
    auto lease = engine_->Attach("");
    alone.push_back(Ask(*lease, request));
    EngineRequest next;  // what it says then depends on all of its state
    next.max_tokens = 5;
    going_on.push_back(Ask(*lease, next));
  }
  Start(std::get<int>(GetParam()));
  std::vector<SessionLease> leases;
  std::vector<std::unique_ptr<Reader>> readers;
  for (const EngineRequest& request : requests) {
    leases.push_back(*engine_->Attach(""));
    readers.push_back(std::make_unique<Reader>(*engine_->Submit(leases.back(), request)));
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    readers[i]->ReadAll();
    EXPECT_EQ(readers[i]->tokens, alone[i]) << i;
    EngineRequest next;
    next.max_tokens = 5;
    EXPECT_EQ(Ask(leases[i], next), going_on[i]) << i;
  }
}

TEST_P(RealModelTest, SessionsOnFewSlotsSayWhatTheySayOnTheirOwn) {
  constexpr size_t kSessions = 9;
  constexpr int kSlots = 2;
  std::vector<EngineRequest> requests(3 * kSessions);
  for (EngineRequest& request : requests) {
    request.prompt = RandomTokens(1 + random_() % 90);
    request.max_tokens = 12;
    request.sampling.repetition_penalty = 1.2f;
    request.sampling.seed = random_();
  }
  std::vector<std::vector<int32_t>> says;
  for (const bool few : {false, true}) {
    EngineOptions options;
    options.max_sessions = few ? kSlots : static_cast<int>(kSessions);
    options.host_memory_bytes = few ? int64_t{1} << 30 : 0;
    Start(std::get<int>(GetParam()), options);
    std::vector<SessionLease> leases;
    for (size_t i = 0; i < kSessions; ++i) {
      leases.push_back(*engine_->Attach(""));
    }
    for (size_t i = 0; i < requests.size(); ++i) {
      const std::vector<int32_t> said = Ask(leases[i % kSessions], requests[i]);
      if (few) {
        EXPECT_EQ(said, says[i]) << i;
      } else {
        says.push_back(said);
      }
    }
    EXPECT_EQ(engine_->Gauges().moved_in, few ? 2 * static_cast<int64_t>(kSessions) : 0);
  }
}

}  // namespace
}  // namespace evenflow
