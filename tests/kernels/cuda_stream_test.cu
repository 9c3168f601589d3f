// A backend's work is in order on a stream of its own, whatever else the device is busy with.
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "kernels/backend.h"

namespace evenflow {
namespace {

// Holds a stream up until it is opened; not for ever, should a call wait for the stream.
class Gate {
 public:
  static void CUDART_CB Pass(void* gate) {
    for (int i = 0; i < 2000 && !static_cast<Gate*>(gate)->open_; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  void Open() { open_ = true; }

 private:
  std::atomic<bool> open_{false};
};

TEST(CudaStreamTest, WhatTheDefaultStreamDoesLateChangesNoStep) {
  constexpr int kVocab = 8, kMostLikely = 5;
  std::string error;
  const std::unique_ptr<Backend> backend = CreateCudaBackend({}, &error);
  ASSERT_NE(backend, nullptr) << error;
  std::vector<float> logits(kVocab * kStepPadding);
  logits[kMostLikely] = 1;
  void* const data = backend->Allocate(logits.size() * sizeof(float));
  backend->Upload(data, logits.data(), logits.size() * sizeof(float));

  SamplingParams greedy;
  greedy.temperature = 0;
  SamplingRow sampling;
  sampling.params = &greedy;
  const Row row = {0, 0, 1, 0};
  const int32_t zero = 0;
  StepInput input;
  input.rows = &row;
  input.tokens = input.logit_tokens = &zero;
  input.sampling = &sampling;
  input.row_count = input.token_count = input.logit_count = 1;

  Gate gate;
  ASSERT_EQ(cudaLaunchHostFunc(nullptr, Gate::Pass, &gate), cudaSuccess);
  backend->BeginStep(input);  // the first one: it takes memory
  gate.Open();
  ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  backend->Sample({{data, DType::kF32, kVocab}, kVocab});
  EXPECT_EQ(backend->Collect(backend->Launch()).sampled[0].token, kMostLikely);
  EXPECT_EQ(backend->error(), "");
  backend->Free(data);
}

}  // namespace
}  // namespace evenflow
