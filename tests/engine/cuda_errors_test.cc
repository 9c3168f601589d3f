// The engine on a CUDA device that has no memory left, and on one that fails: every stream ends,
// with a reason. In this order, as a process that has lost its device does not get it back.
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/model/model.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/reader.h"
#include "tests/support/lose_device.h"

namespace evenflow {
namespace {

using ::testing::HasSubstr;

EngineRequest Ask(int prompt, int64_t max_tokens) {
  EngineRequest request;
  for (int i = 0; i < prompt; ++i) {
    request.prompt.push_back(1 + i % 50);
  }
  request.max_tokens = max_tokens;
  return request;
}

class CudaErrorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string error;
    backend_ = CreateCudaBackend({}, &error);
    ASSERT_NE(backend_, nullptr) << error;
    auto model = Model::Load(EVENFLOW_SOURCE_DIR "/tests/goldens/retnet-a", {}, *backend_);
    ASSERT_TRUE(model.ok()) << model.status();
    EngineOptions options;
    options.max_sessions = 4;
    auto engine = Engine::Create(options, *std::move(model), *backend_, {});
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(CudaErrorsTest, WithoutMemoryAStreamEndsWithAReasonOrItsTokens) {
  std::vector<void*> all;
  for (size_t bytes = backend_->FreeBytes(); bytes >= (size_t{64} << 10);) {
    void* const some = backend_->Allocate(bytes);
    if (some == nullptr) {
      bytes /= 2;
    } else {
      all.push_back(some);
    }
  }
  EXPECT_EQ(backend_->Allocate(size_t{1} << 40), nullptr);
  EXPECT_EQ(backend_->error(), "");  // that there is no memory is no fault of the device
  for (const int prompt : {1, 200}) {
    auto lease = engine_->Attach("");
    Reader reader(*engine_->Submit(*lease, Ask(prompt, 20)));
    const absl::Status status = reader.ReadAll().status;
    if (status.ok()) {
      EXPECT_EQ(reader.tokens.size(), 20u);
    } else {
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
      EXPECT_THAT(std::string(status.message()), HasSubstr("memory"));
    }
  }
  engine_.reset();
  for (void* const some : all) {
    backend_->Free(some);
  }
}

TEST_F(CudaErrorsTest, ALostDeviceEndsEveryStream) {
  constexpr int kStreams = 6;  // more than there are slots: two wait
  std::vector<SessionLease> leases;
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < kStreams; ++i) {
    leases.push_back(*engine_->Attach(""));
    readers.push_back(
        std::make_unique<Reader>(*engine_->Submit(leases.back(), Ask(1 + 40 * i, INT64_MAX))));
  }
  readers[0]->ReadTokens(20);
  LoseCudaDevice();
  for (int i = 0; i < kStreams; ++i) {
    if (i == 4) {
      leases.erase(leases.begin(), leases.begin() + 4);  // their slots go to those who wait
    }
    const absl::Status status = readers[static_cast<size_t>(i)]->ReadAll().status;
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("CUDA: "));
  }
  auto lease = engine_->Attach("");
  Reader late(*engine_->Submit(*lease, Ask(10, 5)));
  EXPECT_EQ(late.ReadAll().status.code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace evenflow
