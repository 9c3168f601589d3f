// Where a step's inputs and outputs lie: blocks in pinned host memory and in the device's with the
// same layout, so that each way is one copy. Addresses stay while no step is larger than those
// before it. Owned by the CUDA backend; engine thread.
#ifndef EVENFLOW_KERNELS_CUDA_STEP_BUFFERS_H_
#define EVENFLOW_KERNELS_CUDA_STEP_BUFFERS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/step.h"

namespace evenflow {

inline constexpr int kMaxMemoryLayers = 512;

// The same number of bytes, pinned and on the device.
struct CudaPair {
  std::byte* host = nullptr;
  std::byte* device = nullptr;
  size_t bytes = 0;

  // Makes room for `needed` bytes; what was there is lost if *moved.
  cudaError_t Reserve(size_t needed, bool* moved);
  void Free();
};

class StepBuffers {
 public:
  StepBuffers() = default;
  StepBuffers(const StepBuffers&) = delete;
  StepBuffers& operator=(const StepBuffers&) = delete;
  ~StepBuffers();

  // Enqueues the copy of a step's inputs, filled up to `padded` rows and logits with unused ones,
  // and points *step at them. *moved: addresses have changed. REQUIRES: the step before was read.
  cudaError_t Upload(const StepInput& input, int padded, CudaStep* step, bool* moved);

  // What sampling reads and writes.
  const CudaSampling& sampling() const { return sampling_; }

  // Enqueues the copy of what the step left.
  cudaError_t Download(const CudaStep& step, int memory_layers);
  // Reads that copy, once it is there: output->sampled and health have their sizes.
  void Read(const std::vector<SamplingRow>& rows, StepOutput* output) const;

 private:
  // Room, in elements, and where each array begins, in bytes.
  struct Layout {
    int rows = 0, tokens = 0, logits = 0;
    size_t row = 0, logit_tokens = 0, sampling = 0, token = 0, token_row = 0, positions = 0,
           edits = 0;    // of the inputs
    size_t health = 0;   // of the outputs, after the samples
    size_t outputs = 0;  // bytes
  };

  cudaError_t Reserve(int rows, int tokens, int logits, bool* moved);
  void WriteRows(const StepInput& input, int padded);
  void WriteLogits(const StepInput& input, int padded);

  template <class T>
  T* Host(size_t offset) const {
    return reinterpret_cast<T*>(input_.host + offset);
  }

  template <class T>
  const T* Device(size_t offset) const {
    return reinterpret_cast<const T*>(input_.device + offset);
  }

  Layout layout_;
  CudaPair input_, output_, top_, counters_;
  CudaSampling sampling_;
  std::vector<LogitEdit> edits_;
  bool wants_top_ = false;
  int health_stride_ = 0;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_STEP_BUFFERS_H_
