// The seam between the engine and a device: about a dozen operations at fused granularity, the same
// on every device. The engine thread owns a backend; no method is thread-safe unless it says so.
// A step is BeginStep, the operations of the model in order, then Launch; Collect waits for it.
// Shapes: activations are [token, ...] over all rows of the step, one row's tokens being adjacent.
#ifndef EVENFLOW_KERNELS_BACKEND_H_
#define EVENFLOW_KERNELS_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/operations.h"
#include "kernels/precondition.h"
#include "kernels/rwkv7_operations.h"
#include "kernels/step.h"
#include "kernels/window_attention.h"

namespace evenflow {

using Ticket = uint64_t;
using SlotCopy = uint64_t;

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string Describe() const = 0;  // one line for the log
  virtual DType activation_dtype() const = 0;
  // Steps that may be under way when the next one begins: 0 where Launch finishes the work itself,
  // or 1.
  virtual int pipeline_depth() const = 0;

  // Bytes per second that reading the device's memory reaches; measured now, within a second. 0
  // when there is no memory to do it with. Any one thread, while no step is in flight.
  virtual double MeasureReadBandwidth() = 0;

  // What of a layer this device does not serve; empty: nothing. Asked when a model is loaded.
  virtual std::string Refusal(const TokenMixArgs& /*mix*/, const AdvanceArgs& /*advance*/) const {
    return "";
  }

  virtual std::string Refusal(const WindowAttentionArgs& /*attention*/) const { return ""; }

  // What went wrong on the device, for good: steps have no effect any more. Empty: nothing.
  virtual std::string error() const { return ""; }

  // What the newest recorded step asks of the device one after the other, kernels for the most
  // part; 0: none is recorded.
  virtual int launches() const { return 0; }

  // The rows of steps of single tokens that each stand for a size which the device records, so that
  // those that come later take less time: ascending, none above `most_rows`; empty: it records
  // none.
  virtual std::vector<int> RecordedSizes(int /*most_rows*/) const { return {}; }

  // Bytes of memory of its own that nobody uses now; 0: it has none, or nobody knows.
  virtual size_t FreeBytes() const { return 0; }

  // Zeroed memory, 64-byte aligned; nullptr when there is none left.
  virtual void* Allocate(size_t bytes) = 0;
  virtual void Free(void* data) = 0;
  virtual void Upload(void* to, const void* from, size_t bytes) = 0;
  virtual void Download(void* to, const void* from, size_t bytes) = 0;

  // A step that begins with the same Embed as one before it has the same operations on the same
  // memory, unless some of it was freed between them: a device may have recorded them.
  virtual void BeginStep(const StepInput& step) = 0;
  virtual void Embed(const EmbedArgs& args) = 0;
  virtual void MatMul(const MatMulArgs& args) = 0;
  virtual void Norm(const NormArgs& args) = 0;
  virtual void TokenMix(const TokenMixArgs& args) = 0;
  virtual void TokenShift(const TokenShiftArgs& args) = 0;
  virtual void MemoryInputs(const MemoryInputsArgs& args) = 0;
  virtual void Precondition(const PreconditionArgs& args) = 0;
  virtual void GeneralizedDeltaKeys(const GeneralizedDeltaKeysArgs& args) = 0;
  virtual void Advance(const AdvanceArgs& args) = 0;
  virtual void MemoryOutput(const MemoryOutputArgs& args) = 0;
  virtual void WindowAttention(const WindowAttentionArgs& args) = 0;
  virtual void MlpActivation(const MlpActivationArgs& args) = 0;
  virtual void Sample(const SampleArgs& args) = 0;
  virtual Ticket Launch() = 0;
  // Waits for that step. Steps are collected in the order of their launch, at the latest before
  // more than pipeline_depth() others are launched.
  virtual const StepOutput& Collect(Ticket ticket) = 0;

  // Ordered with the steps launched before and after.
  virtual void CopySlot(const Slots& slots, int to, int from) = 0;
  // Overwrites a slot with the initial state (all zeros).
  virtual void ClearSlot(const Slots& slots, int slot) = 0;

  // Host memory for copies of slots, page-locked where that makes them fast, not initialised;
  // nullptr when there is none. Any thread: it may take longer than many steps.
  virtual void* AllocateHost(size_t bytes) = 0;
  virtual void FreeHost(void* data) = 0;  // waits for the copies under way
  // Copies a slot to host memory, or back, after the steps launched before, beside those launched
  // from then on: until CopyDone, none of them may name the slot.
  virtual SlotCopy SaveSlot(const Slots& slots, int slot, void* to) = 0;
  virtual SlotCopy LoadSlot(const Slots& slots, int slot, const void* from) = 0;
  // Does not wait. With an error(), every copy is done.
  virtual bool CopyDone(SlotCopy copy) = 0;
  // Overwrites host memory with zeros, some time before later SaveSlots write there. REQUIRES: no
  // copy reads it.
  virtual void WipeHost(void* data, size_t bytes) = 0;
};

struct BackendOptions {
  int threads = 0;  // CPU workers; 0: one for each physical core this process may use
  DType activations = DType::kBF16;  // on CUDA; fp32 also makes its products fp32
  // A row's result does not depend on the rows beside it, as on the CPU always. On CUDA, products
  // of many rows then read the weights once for every 64 of them. With activations of bf16.
  bool batch_invariant = false;
};

// The CPU backend, always there.
std::unique_ptr<Backend> CreateCpuBackend(const BackendOptions& options);

// The CUDA backend. Without it, or without a usable device, returns nullptr and says why in *error.
std::unique_ptr<Backend> CreateCudaBackend(const BackendOptions& options, std::string* error);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_BACKEND_H_
