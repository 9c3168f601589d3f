#include <algorithm>

#include "kernels/cuda/slot_copies.h"

namespace evenflow {
namespace {

constexpr size_t kZeros = size_t{4} << 20;
// More than these are made only when so many moves are under way at once.
constexpr size_t kEvents = 16;

// The first error of calls that are made only while there is none.
template <class... Calls>
cudaError_t Try(Calls&&... calls) {
  cudaError_t status = cudaSuccess;
  ((status = status == cudaSuccess ? calls() : status), ...);
  return status;
}

}  // namespace

CudaSlotCopies::~CudaSlotCopies() {
  Wait();
  for (const auto& [copy, event] : under_way_) {
    cudaEventDestroy(event);
  }
  for (const cudaEvent_t event : spare_) {
    cudaEventDestroy(event);
  }
  cudaEventDestroy(launched_);
  cudaStreamDestroy(out_);
  cudaStreamDestroy(in_);
  cudaFree(zeros_);
}

cudaError_t CudaSlotCopies::Create(cudaStream_t steps) {
  steps_ = steps;
  spare_.resize(kEvents);
  for (cudaEvent_t& event : spare_) {
    if (const auto status = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
        status != cudaSuccess) {
      return status;
    }
  }
  return Try([&] { return cudaStreamCreateWithFlags(&out_, cudaStreamNonBlocking); },
             [&] { return cudaStreamCreateWithFlags(&in_, cudaStreamNonBlocking); },
             [&] { return cudaEventCreateWithFlags(&launched_, cudaEventDisableTiming); },
             [&] { return cudaMalloc(&zeros_, kZeros); },
             [&] { return cudaMemsetAsync(zeros_, 0, kZeros, out_); });
}

cudaError_t CudaSlotCopies::Copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                 SlotCopy* copy) {
  const cudaStream_t stream = kind == cudaMemcpyDeviceToHost ? out_ : in_;
  cudaEvent_t done = nullptr;
  if (!spare_.empty()) {
    done = spare_.back();
    spare_.pop_back();
  } else if (const auto status = cudaEventCreateWithFlags(&done, cudaEventDisableTiming);
             status != cudaSuccess) {
    return status;
  }
  *copy = ++last_;
  under_way_[*copy] = done;
  return Try([&] { return cudaEventRecord(launched_, steps_); },
             [&] { return cudaStreamWaitEvent(stream, launched_, 0); },
             [&] { return cudaMemcpyAsync(to, from, bytes, kind, stream); },
             [&] { return cudaEventRecord(done, stream); });
}

cudaError_t CudaSlotCopies::Save(const std::byte* slot, void* to, size_t bytes, SlotCopy* copy) {
  return Copy(to, slot, bytes, cudaMemcpyDeviceToHost, copy);
}

cudaError_t CudaSlotCopies::Load(std::byte* slot, const void* from, size_t bytes, SlotCopy* copy) {
  return Copy(slot, from, bytes, cudaMemcpyHostToDevice, copy);
}

cudaError_t CudaSlotCopies::Ask(SlotCopy copy) {
  const auto found = under_way_.find(copy);
  if (found == under_way_.end()) {
    return cudaSuccess;
  }
  const cudaError_t status = cudaEventQuery(found->second);
  if (status != cudaErrorNotReady) {
    spare_.push_back(found->second);
    under_way_.erase(found);
  }
  return status;
}

// By the copy engine: a kernel that writes to host memory would keep multiprocessors from the
// steps.
cudaError_t CudaSlotCopies::Wipe(void* data, size_t bytes) {
  cudaError_t status = cudaSuccess;
  for (size_t at = 0; at < bytes && status == cudaSuccess; at += kZeros) {
    status = cudaMemcpyAsync(static_cast<std::byte*>(data) + at, zeros_,
                             std::min(kZeros, bytes - at), cudaMemcpyDeviceToHost, out_);
  }
  return status;
}

cudaError_t CudaSlotCopies::Wait() {
  return Try([&] { return cudaStreamSynchronize(out_); },
             [&] { return cudaStreamSynchronize(in_); });
}

}  // namespace evenflow
