// A backend that hands everything on to another one, for tests that change something on the way.
// Owned and used like the other.
#ifndef EVENFLOW_TESTS_SUPPORT_FORWARDING_BACKEND_H_
#define EVENFLOW_TESTS_SUPPORT_FORWARDING_BACKEND_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "kernels/backend.h"

namespace evenflow {

class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

  std::string Describe() const override { return backend_->Describe(); }

  DType activation_dtype() const override { return backend_->activation_dtype(); }

  int pipeline_depth() const override { return backend_->pipeline_depth(); }

  double MeasureReadBandwidth() override { return backend_->MeasureReadBandwidth(); }

  std::string Refusal(const TokenMixArgs& mix, const AdvanceArgs& advance) const override {
    return backend_->Refusal(mix, advance);
  }

  std::string Refusal(const WindowAttentionArgs& attention) const override {
    return backend_->Refusal(attention);
  }

  std::string error() const override { return backend_->error(); }

  int launches() const override { return backend_->launches(); }

  std::vector<int> RecordedSizes(int most_rows) const override {
    return backend_->RecordedSizes(most_rows);
  }

  size_t FreeBytes() const override { return backend_->FreeBytes(); }

  void* Allocate(size_t bytes) override { return backend_->Allocate(bytes); }

  void Free(void* data) override { backend_->Free(data); }

  void Upload(void* to, const void* from, size_t bytes) override {
    backend_->Upload(to, from, bytes);
  }

  void Download(void* to, const void* from, size_t bytes) override {
    backend_->Download(to, from, bytes);
  }

  void BeginStep(const StepInput& step) override { backend_->BeginStep(step); }

  void Embed(const EmbedArgs& args) override { backend_->Embed(args); }

  void MatMul(const MatMulArgs& args) override { backend_->MatMul(args); }

  void Norm(const NormArgs& args) override { backend_->Norm(args); }

  void TokenMix(const TokenMixArgs& args) override { backend_->TokenMix(args); }

  void TokenShift(const TokenShiftArgs& args) override { backend_->TokenShift(args); }

  void MemoryInputs(const MemoryInputsArgs& args) override { backend_->MemoryInputs(args); }

  void Precondition(const PreconditionArgs& args) override { backend_->Precondition(args); }

  void GeneralizedDeltaKeys(const GeneralizedDeltaKeysArgs& args) override {
    backend_->GeneralizedDeltaKeys(args);
  }

  void Advance(const AdvanceArgs& args) override { backend_->Advance(args); }

  void MemoryOutput(const MemoryOutputArgs& args) override { backend_->MemoryOutput(args); }

  void WindowAttention(const WindowAttentionArgs& args) override {
    backend_->WindowAttention(args);
  }

  void MlpActivation(const MlpActivationArgs& args) override { backend_->MlpActivation(args); }

  void Sample(const SampleArgs& args) override { backend_->Sample(args); }

  Ticket Launch() override { return backend_->Launch(); }

  const StepOutput& Collect(Ticket ticket) override { return backend_->Collect(ticket); }

  void CopySlot(const Slots& slots, int to, int from) override {
    backend_->CopySlot(slots, to, from);
  }

  void ClearSlot(const Slots& slots, int slot) override { backend_->ClearSlot(slots, slot); }

  void* AllocateHost(size_t bytes) override { return backend_->AllocateHost(bytes); }

  void FreeHost(void* data) override { backend_->FreeHost(data); }

  SlotCopy SaveSlot(const Slots& slots, int slot, void* to) override {
    return backend_->SaveSlot(slots, slot, to);
  }

  SlotCopy LoadSlot(const Slots& slots, int slot, const void* from) override {
    return backend_->LoadSlot(slots, slot, from);
  }

  bool CopyDone(SlotCopy copy) override { return backend_->CopyDone(copy); }

  void WipeHost(void* data, size_t bytes) override { backend_->WipeHost(data, bytes); }

 private:
  const std::unique_ptr<Backend> backend_;
};

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_SUPPORT_FORWARDING_BACKEND_H_
