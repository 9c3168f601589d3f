// A model and a device without arithmetic, for exact and fast tests of the engine: a state is a
// hash chain over the tokens in blocks, and a sample is a function of it.
#ifndef EVENFLOW_TESTS_ENGINE_FAKE_DEVICE_H_
#define EVENFLOW_TESTS_ENGINE_FAKE_DEVICE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/model.h"
#include "engine/mutex.h"
#include "kernels/backend.h"

#include "absl/base/thread_annotations.h"
#include "tests/support/resolved_step.h"

namespace evenflow {

inline constexpr int kFakeVocab = 1000;

struct FakeState {
  static constexpr int kMaxRing = 32;

  // Reads a token by the rules of the window: a ring by position, a commit every C tokens.
  void Feed(int32_t token, const Window& window);
  // Takes back the newest tokens. False if the rules of the window do not allow it.
  bool GoBackTo(int64_t earlier, const Window& window);
  // Of the tokens before `position`, however many of them are committed.
  uint64_t Hash(const Window& window) const;

  int64_t position = 0;
  int64_t newest = 0;  // tokens that were ever read, of which those from `position` were taken back
  int64_t committed = 0;
  uint64_t committed_hash = 0;
  int32_t ring[kMaxRing] = {};

 private:
  void CommitTo(int64_t end, const Window& window);
};

// The sample after a state, as FakeDevice draws it.
int32_t FakeSample(uint64_t state_hash, const SamplingRow& row);

// What a session must say and be: one token after the other, without an engine.
struct FakeSession {
  explicit FakeSession(Window shape, int history_tokens = 1024)
      : window(shape), history(static_cast<size_t>(history_tokens)) {}

  void Learn(int32_t token);  // becomes the pending token; the last one goes into the state
  std::vector<int32_t> Generate(int count, const SamplingParams& params);

  Window window;
  FakeState state;
  std::vector<int32_t> history;  // ring
  std::vector<int32_t> tokens;
};

class FakeDevice : public Backend {
 public:
  explicit FakeDevice(Window window = {}, int pipeline_depth = 0);
  ~FakeDevice() override;

  struct Step {
    std::vector<Row> rows;
    std::vector<int32_t> tokens;
    std::vector<int32_t> logit_tokens;
    std::vector<SamplingRow> sampling;
  };

  // Set before the engine starts; called on its thread.
  std::function<void(const Step&)> on_launch;  // may wait or throw
  std::function<bool(const Row&)> bad_state, bad_logits;
  std::vector<int> recorded_sizes;
  bool out_of_memory = false;
  size_t free_bytes = 0;
  std::string failure;  // set in on_launch: the device is lost from then on
  // A copy of a slot is done, and its bytes are moved, when it was asked for so often; -1: when
  // ReleaseCopies is called.
  std::atomic<int> copy_polls{0};
  std::atomic<size_t> host_bytes{SIZE_MAX};  // host memory that there is

  // The state of a session whose last step fed the token before `position`; the engine must be at
  // rest.
  FakeState StateOf(int slot) const;
  // Slots other than those in use that do not hold the initial state.
  int DirtySlots() const;

  int64_t steps() const { return steps_.load(); }

  // Steps that were launched while the one before was under way.
  int64_t steps_ahead() const { return steps_ahead_.load(); }

  // Bytes other than zero in host memory; the engine must be at rest.
  int DirtyHostBytes() const;

  void ReleaseCopies() { copy_polls = 0; }

  // Blocks of host memory that there are.
  size_t host_blocks() const;

  // What went wrong in the way the engine used the device; "" if nothing did.
  std::string complaint() const;
  std::unique_ptr<Forwarder> NewModel();

  std::string Describe() const override { return "fake"; }

  DType activation_dtype() const override { return DType::kF32; }

  double MeasureReadBandwidth() override { return 0; }

  std::string error() const override { return failure; }

  int pipeline_depth() const override { return pipeline_depth_; }

  std::vector<int> RecordedSizes(int /*most_rows*/) const override { return recorded_sizes; }

  size_t FreeBytes() const override { return free_bytes; }

  void* Allocate(size_t bytes) override;
  void Free(void* data) override;

  void Upload(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }

  void Download(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }

  void BeginStep(const StepInput& step) override;

  void Embed(const EmbedArgs&) override {}

  void MatMul(const MatMulArgs&) override {}

  void Norm(const NormArgs&) override {}

  void TokenMix(const TokenMixArgs&) override {}

  void TokenShift(const TokenShiftArgs&) override {}

  void MemoryInputs(const MemoryInputsArgs&) override {}

  void Precondition(const PreconditionArgs&) override {}

  void GeneralizedDeltaKeys(const GeneralizedDeltaKeysArgs&) override {}

  void Advance(const AdvanceArgs&) override {}

  void MemoryOutput(const MemoryOutputArgs&) override {}

  void WindowAttention(const WindowAttentionArgs&) override {}

  void MlpActivation(const MlpActivationArgs&) override {}

  void Sample(const SampleArgs& args) override;
  Ticket Launch() override;
  const StepOutput& Collect(Ticket ticket) override;
  void CopySlot(const Slots& slots, int to, int from) override;
  void ClearSlot(const Slots& slots, int slot) override;
  void* AllocateHost(size_t bytes) override;
  void FreeHost(void* data) override;
  SlotCopy SaveSlot(const Slots& slots, int slot, void* to) override;
  SlotCopy LoadSlot(const Slots& slots, int slot, const void* from) override;
  bool CopyDone(SlotCopy copy) override;
  void WipeHost(void* data, size_t bytes) override;

  // The whole forward pass.
  void Forward(const Slots& slots);

 private:
  // A copy of a slot that is under way.
  struct Copy {
    std::byte* to;
    const std::byte* from;
    size_t bytes;
    int slot;
    int polls = 0;
  };

  void Complain(const std::string& what);
  SlotCopy Begin(const Copy& copy);
  // Complains if a copy under way has that slot.
  void CheckFree(int slot, const char* what);

  const Window window_;
  const int pipeline_depth_;
  Step step_;
  StepOutput output_;
  std::vector<uint64_t> logits_;  // [logit], hashes
  std::map<Ticket, StepOutput> launched_;
  std::unique_ptr<ResolvedStep> input_;
  std::vector<SampledToken> drawn_;  // by the step launched last
  StepOutput collected_;
  Ticket last_ticket_ = 0;
  std::byte* slots_ = nullptr;
  size_t slots_bytes_ = 0;
  std::atomic<int64_t> steps_{0}, steps_ahead_{0};
  std::map<SlotCopy, Copy> copies_;
  SlotCopy last_copy_ = 0;
  mutable Mutex mutex_;
  std::map<void*, size_t> host_ ABSL_GUARDED_BY(mutex_);  // bytes of each block
  std::string complaint_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_ENGINE_FAKE_DEVICE_H_
