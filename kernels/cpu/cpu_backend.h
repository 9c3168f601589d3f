// The CPU backend: every operation is done when its call returns, Launch only counts. Owned and
// used by the engine thread; its workers are its own.
#ifndef EVENFLOW_KERNELS_CPU_CPU_BACKEND_H_
#define EVENFLOW_KERNELS_CPU_CPU_BACKEND_H_

#include <cstddef>
#include <memory>
#include <string>
#include <unordered_map>

#include "kernels/backend.h"
#include "kernels/bandwidth.h"
#include "kernels/cpu/step.h"
#include "kernels/cpu/worker_pool.h"

namespace evenflow {

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options);
  ~CpuBackend() override;

  std::string Describe() const override;

  DType activation_dtype() const override { return DType::kF32; }

  int pipeline_depth() const override { return 0; }

  double MeasureReadBandwidth() override;

  // Pages come from the system when they are first touched.
  void* Allocate(size_t bytes) override;
  void Free(void* data) override;
  void Upload(void* to, const void* from, size_t bytes) override;
  void Download(void* to, const void* from, size_t bytes) override;

  void BeginStep(const StepInput& input) override;

  void Embed(const EmbedArgs& args) override { CpuEmbed(args, step_, pool_); }

  void MatMul(const MatMulArgs& args) override { CpuMatMul(args, step_, pool_); }

  void Norm(const NormArgs& args) override { CpuNorm(args, step_, pool_); }

  void TokenMix(const TokenMixArgs& args) override { CpuTokenMix(args, step_, pool_); }

  void TokenShift(const TokenShiftArgs& args) override { CpuTokenShift(args, step_, pool_); }

  void MemoryInputs(const MemoryInputsArgs& args) override { CpuMemoryInputs(args, step_, pool_); }

  void Precondition(const PreconditionArgs& args) override;

  void GeneralizedDeltaKeys(const GeneralizedDeltaKeysArgs& args) override {
    CpuGeneralizedDeltaKeys(args, step_, pool_);
  }

  void Advance(const AdvanceArgs& args) override;

  void MemoryOutput(const MemoryOutputArgs& args) override { CpuMemoryOutput(args, step_, pool_); }

  void WindowAttention(const WindowAttentionArgs& args) override {
    CpuWindowAttention(args, step_, pool_);
  }

  void MlpActivation(const MlpActivationArgs& args) override {
    CpuMlpActivation(args, step_, pool_);
  }

  void Sample(const SampleArgs& args) override { CpuSample(args, step_, pool_); }

  Ticket Launch() override { return ++launched_; }

  const StepOutput& Collect(Ticket /*ticket*/) override { return step_.output; }

  void CopySlot(const Slots& slots, int to, int from) override;
  void ClearSlot(const Slots& slots, int slot) override;
  void* AllocateHost(size_t bytes) override;
  void FreeHost(void* data) override;
  SlotCopy SaveSlot(const Slots& slots, int slot, void* to) override;
  SlotCopy LoadSlot(const Slots& slots, int slot, const void* from) override;

  bool CopyDone(SlotCopy /*copy*/) override { return true; }

  void WipeHost(void* data, size_t bytes) override;

 private:
  void MakeRoomForHealth(int memory_layer);

  WorkerPool pool_;
  CpuStep step_;
  std::unique_ptr<ReadBandwidth> bandwidth_;  // once it was asked for
  Ticket launched_ = 0;
  std::unordered_map<void*, size_t> allocations_;  // bytes of each mapping
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_CPU_BACKEND_H_
