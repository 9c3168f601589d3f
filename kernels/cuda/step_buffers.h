// Where a step's inputs and outputs lie: blocks in pinned host memory and in the device's with the
// same layout, so that each way is one copy, by a kernel. Addresses on the device stay while no
// step is larger than those before it. The host's are two, for steps in turn: while one step is
// under way, the next one's inputs are written. Owned by the CUDA backend; engine thread.
#ifndef EVENFLOW_KERNELS_CUDA_STEP_BUFFERS_H_
#define EVENFLOW_KERNELS_CUDA_STEP_BUFFERS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/sample.h"
#include "kernels/cuda/step.h"
#include "kernels/step.h"

namespace evenflow {

inline constexpr int kMaxMemoryLayers = 512;

// The same number of bytes, twice pinned and once on the device. Blocks are kept until the end: a
// step under way may use them, and growth doubles, so they sum to less than twice the largest.
class CudaBlock {
 public:
  CudaBlock() = default;
  CudaBlock(const CudaBlock&) = delete;
  CudaBlock& operator=(const CudaBlock&) = delete;
  ~CudaBlock();

  // Makes room for `needed` bytes; somewhere else if *moved, and on the device zeros for whatever
  // the stream does next.
  cudaError_t Reserve(size_t needed, cudaStream_t stream, bool* moved);

  std::byte* host(int turn) const { return blocks_.empty() ? nullptr : blocks_.back().host[turn]; }

  std::byte* device() const { return blocks_.empty() ? nullptr : blocks_.back().device; }

 private:
  struct Block {
    std::byte* host[2] = {};
    std::byte* device = nullptr;
    size_t bytes = 0;
  };

  std::vector<Block> blocks_;
};

// What a step has left in pinned memory, once its copy is there.
struct StepRemains {
  const CudaSampled* sampled = nullptr;  // [logit]
  const TokenLogprob* top = nullptr;     // [logit, kMaxTopLogprobs], where some were wanted
  const StateHealth* health = nullptr;   // [memory layer, health_stride]
  int health_stride = 0;

  // output->sampled and health have their sizes.
  void Read(const std::vector<SamplingRow>& rows, StepOutput* output) const;
};

class StepBuffers {
 public:
  StepBuffers() = default;
  StepBuffers(const StepBuffers&) = delete;
  StepBuffers& operator=(const StepBuffers&) = delete;

  // Enqueues the copy of a step's inputs, filled up to `padded` rows and logits with unused ones,
  // and points *step at them. *moved: addresses have changed. REQUIRES: the step before the last
  // one is done and read.
  cudaError_t Upload(const StepInput& input, int padded, CudaStep* step, bool* moved);

  // What sampling reads and writes.
  const CudaSampling& sampling() const { return sampling_; }

  // Enqueues the copy of what the step leaves, and tells where it will be.
  cudaError_t Download(const CudaStep& step, int memory_layers, StepRemains* remains) const;

 private:
  // Room, in elements, and where each array begins, in bytes.
  struct Layout {
    int rows = 0, tokens = 0, logits = 0;
    size_t row = 0, logit_tokens = 0, sampling = 0, token = 0, token_row = 0, positions = 0,
           edits = 0;    // of the inputs
    size_t health = 0;   // of the outputs, after the samples
    size_t outputs = 0;  // bytes
  };

  cudaError_t Reserve(int rows, int tokens, int logits, cudaStream_t stream, bool* moved);
  void WriteRows(const StepInput& input, int padded);
  void WriteLogits(const StepInput& input, int padded);

  template <class T>
  T* Host(size_t offset) const {
    return reinterpret_cast<T*>(input_.host(turn_) + offset);
  }

  template <class T>
  T* Device(size_t offset) const {
    return reinterpret_cast<T*>(input_.device() + offset);
  }

  Layout layout_;
  CudaBlock input_, output_, top_, counters_;
  CudaSampling sampling_;
  std::vector<LogitEdit> edits_;
  bool wants_top_ = false;
  int turn_ = 0;  // which of the host's blocks the step has
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_STEP_BUFFERS_H_
