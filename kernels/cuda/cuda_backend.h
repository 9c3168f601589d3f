// The CUDA backend: operations are enqueued on one stream. Owned and used by the engine thread.
//
// A step in which every row has one token runs as a graph, captured for as many rows as the next
// larger bucket has and replayed with other inputs at the same addresses. Its operations are those
// that the first such step of a model called, so while a graph is replayed their calls do nothing.
//
// A step may be launched while the one before it is under way: on the device it comes after it, and
// what it reads and leaves in host memory lies elsewhere (step_buffers.h).
#ifndef EVENFLOW_KERNELS_CUDA_CUDA_BACKEND_H_
#define EVENFLOW_KERNELS_CUDA_CUDA_BACKEND_H_

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/slot_copies.h"
#include "kernels/cuda/step.h"
#include "kernels/cuda/step_buffers.h"

namespace evenflow {

class CudaBackend final : public Backend {
 public:
  // nullptr, and why in *error, without a usable device.
  static std::unique_ptr<CudaBackend> Create(const BackendOptions& options, std::string* error);
  ~CudaBackend() override;

  std::string Describe() const override;

  DType activation_dtype() const override { return activations_; }

  int pipeline_depth() const override { return 1; }

  double MeasureReadBandwidth() override;
  std::string Refusal(const TokenMixArgs& mix, const AdvanceArgs& advance) const override;
  std::string Refusal(const WindowAttentionArgs& attention) const override;

  std::string error() const override { return error_; }

  // Those of the recorded step with the most rows.
  int launches() const override { return launches_; }

  std::vector<int> RecordedSizes(int most_rows) const override;
  size_t FreeBytes() const override;
  void* Allocate(size_t bytes) override;
  void Free(void* data) override;
  void Upload(void* to, const void* from, size_t bytes) override;
  void Download(void* to, const void* from, size_t bytes) override;

  void BeginStep(const StepInput& input) override;
  void Embed(const EmbedArgs& args) override;
  void MatMul(const MatMulArgs& args) override;

  void Norm(const NormArgs& args) override;

  void TokenMix(const TokenMixArgs& args) override { Run("TokenMix", CudaTokenMix, args); }

  void TokenShift(const TokenShiftArgs& args) override { Run("TokenShift", CudaTokenShift, args); }

  void MemoryInputs(const MemoryInputsArgs& args) override;

  void Precondition(const PreconditionArgs& args) override;

  void GeneralizedDeltaKeys(const GeneralizedDeltaKeysArgs& args) override {
    Run("GeneralizedDeltaKeys", CudaGeneralizedDeltaKeys, args);
  }

  void Advance(const AdvanceArgs& args) override;

  void MemoryOutput(const MemoryOutputArgs& args) override;

  void WindowAttention(const WindowAttentionArgs& args) override {
    Run("WindowAttention", CudaWindowAttention, args);
  }

  void MlpActivation(const MlpActivationArgs& args) override;

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

 private:
  // Rows of the bucket; whose they are, which the embedding table and its output tell; whether
  // there are logits, and whether tokens are sampled.
  using GraphKey = std::tuple<int, const void*, const void*, bool, bool>;

  void MakeRoomForHealth(int memory_layer);

  enum class Mode { kEager, kCapture, kReplay };

  // A step that was launched.
  struct Launched {
    std::vector<SamplingRow> sampling;
    size_t rows = 0;
    StepRemains remains;
    cudaEvent_t done = nullptr;
  };

  Launched& At(Ticket ticket) { return steps_[ticket % 2]; }

  CudaBackend() = default;
  // Remembers the first error, after which nothing is enqueued any more.
  bool Check(cudaError_t status, const char* what);
  void Fail(const std::string& what);
  void ForgetGraphs();
  void EndCapture();

  void RunProduct(const MatMulArgs& args, const NormArgs* norm, const MlpActivationArgs* mlp);
  void RunAdvance(const MemoryOutputArgs* output, const LeftFactors& left);
  // Products, a memory's inputs and its Advance are put off until it is known what follows them;
  // this runs those that are.
  void RunHeld();

  bool Enqueues() const { return mode_ != Mode::kReplay && error_.empty(); }

  template <class Args>
  void Run(const char* what, void (*operation)(const Args&, const CudaStep&), const Args& args) {
    if (Enqueues()) {
      RunHeld();
      operation(args, step_);
      Check(cudaGetLastError(), what);
    }
  }

  DType activations_ = DType::kBF16;
  bool batch_invariant_ = false;
  std::string error_;
  std::string device_;
  cudaStream_t stream_ = nullptr;
  CudaScratch scratch_;
  CudaRotary rotary_;
  CudaSlotCopies copies_;
  std::unique_ptr<CudaMatMul> matmul_;
  StepBuffers buffers_;

  CudaStep step_;
  std::vector<Row> rows_;
  Launched steps_[2];  // [ticket % 2]
  Ticket launched_ = 0;
  bool decodes_ = false;  // one token a row
  bool samples_ = false;
  int recorded_rows_ = 0, launches_ = 0;
  StepOutput output_;

  Mode mode_ = Mode::kEager;
  std::optional<MatMulArgs> held_;
  std::optional<MemoryInputsArgs> held_inputs_;  // of held_advance_, if there is one
  std::optional<AdvanceArgs> held_advance_;
  LeftFactors left_;  // by the newest product or MemoryOutput
  GraphKey key_;
  std::map<GraphKey, cudaGraphExec_t> graphs_;  // nullptr: that step has run once, as warm-up
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_CUDA_BACKEND_H_
