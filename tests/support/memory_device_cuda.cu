#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/memory_slot.h"
#include "kernels/cuda/prefill.cuh"
#include "kernels/cuda/step.h"

#include "tests/support/memory_device.h"
#include "tests/support/memory_sessions.h"

namespace evenflow {
namespace {

void Check(cudaError_t error) {
  if (error != cudaSuccess) {
    std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
    std::abort();
  }
}

// Device memory that grows.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  ~Buffer() { cudaFree(data_); }

  void* Reserve(size_t bytes) {
    if (bytes > size_) {
      Check(cudaFree(data_));
      Check(cudaMalloc(&data_, bytes));
      size_ = bytes;
    }
    return data_;
  }

  // A copy of `host`, its only content. What a kernel reads beyond it is NaN.
  template <class T>
  T* Copy(const std::vector<T>& host) {
    const size_t bytes = host.size() * sizeof(T);
    auto* data = static_cast<T*>(Reserve(bytes + 256));
    Check(cudaMemset(data + host.size(), 0xff, 256));
    Check(cudaMemcpy(data, host.data(), bytes, cudaMemcpyHostToDevice));
    return data;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

class CudaMemoryDevice : public MemoryDevice {
 public:
  std::byte* Allocate(size_t bytes) override {
    return static_cast<std::byte*>(slots_.Reserve(bytes));
  }

  void Upload(std::byte* to, const void* from, size_t bytes) override {
    Check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
  }

  void Download(void* to, const std::byte* from, size_t bytes) override {
    Check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
  }

  double Advance(AdvanceArgs args, const MemoryInputs& inputs, CpuStep* step,
                 std::vector<float>* o) override {
    args.q = q_.Copy(inputs.q);
    args.k = k_.Copy(inputs.k);
    args.e = e_.Copy(inputs.e);
    args.v = v_.Copy(inputs.v);
    args.log_decay = log_decay_.Copy(inputs.log_decay);
    args.beta = beta_.Copy(inputs.beta);
    args.level_weights = level_weights_.Copy(inputs.level_weights);
    const auto nodes = args.power_law.nodes;
    args.power_law.rates =
        rates_.Copy(std::vector<float>(args.power_law.rates, args.power_law.rates + nodes));
    args.power_law.coefficients = coefficients_.Copy(std::vector<float>(
        args.power_law.coefficients, args.power_law.coefficients + nodes * PowerLaw::kPoints));
    args.o = o_.Copy(*o);
    Check(cudaMemset(args.o, 0xff, o->size() * sizeof(float)));
    CudaStep device = StepOf(*step);
    device.health = health_.Copy(step->output.health);
    device.health_stride = device.row_count;
    std::vector<uint32_t> counters(kCounters + step->rows.size());
    device.counters = counters_.Copy(counters);
    const double seconds = Seconds([&] { CudaAdvance(args, device); });
    Check(cudaMemcpy(o->data(), args.o, o->size() * sizeof(float), cudaMemcpyDeviceToHost));
    Check(cudaMemcpy(step->output.health.data(), device.health,
                     step->rows.size() * sizeof(StateHealth), cudaMemcpyDeviceToHost));
    Check(cudaMemcpy(counters.data(), device.counters, counters.size() * sizeof(uint32_t),
                     cudaMemcpyDeviceToHost));
    if (std::any_of(counters.begin(), counters.end(), [](uint32_t x) { return x != 0; })) {
      std::fprintf(stderr, "Advance left its counters behind\n");
      std::abort();
    }
    return seconds;
  }

  double Precondition(const PreconditionArgs& args, CpuStep* step) override {
    CudaStep device = StepOf(*step);
    device.health = health_.Copy(step->output.health);
    const Preconditioner& of = args.preconditioner;
    const size_t heads = static_cast<size_t>(device.token_count) * static_cast<size_t>(of.heads);
    const size_t queries = heads * static_cast<size_t>(of.key_dim);
    const size_t entries = queries * static_cast<size_t>(EntryCount(MemoryOf(of.mode)));
    PreconditionArgs on_device = args;
    on_device.k = k_.Copy(std::vector<float>(args.k, args.k + queries));
    on_device.q = q_.Copy(std::vector<float>(args.q, args.q + queries));
    on_device.beta = beta_.Copy(std::vector<float>(args.beta, args.beta + heads));
    on_device.w = w_.Copy(std::vector<float>(args.w, args.w + entries));
    on_device.e = e_.Copy(std::vector<float>(args.e, args.e + entries));
    const double seconds = Seconds([&] { CudaPrecondition(on_device, device); });
    const auto get = [](float* to, const float* from, size_t count) {
      Check(cudaMemcpy(to, from, count * sizeof(float), cudaMemcpyDeviceToHost));
    };
    Check(cudaMemcpy(step->output.health.data(), device.health,
                     step->rows.size() * sizeof(StateHealth), cudaMemcpyDeviceToHost));
    get(args.q, on_device.q, queries);
    get(args.beta, on_device.beta, heads);
    get(args.w, on_device.w, entries);
    get(args.e, on_device.e, entries);
    return seconds;
  }

  int64_t StateIndex(const MemoryShape& shape, int key, int column) const override {
    return evenflow::StateIndex(shape.key_dim, shape.value_dim, key, column);
  }

  explicit CudaMemoryDevice(DType activations) : activations_(activations) {
    Check(cudaEventCreate(&begin_));
    Check(cudaEventCreate(&end_));
  }

  ~CudaMemoryDevice() override {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }

 private:
  CudaStep StepOf(const CpuStep& step) {
    CudaStep device;
    device.row_count = static_cast<int>(step.rows.size());
    for (const Row& row : step.rows) {
      device.token_count += row.tokens;
      device.max_row_tokens = std::max(device.max_row_tokens, row.tokens);
    }
    device.rows = rows_.Copy(step.rows);
    device.host_rows = step.rows.data();
    device.activations = activations_;
    device.scratch = &scratch_;
    return device;
  }

  // That what `enqueue` enqueues takes.
  template <class Enqueue>
  double Seconds(const Enqueue& enqueue) const {
    Check(cudaEventRecord(begin_));
    enqueue();
    Check(cudaGetLastError());
    Check(cudaEventRecord(end_));
    Check(cudaEventSynchronize(end_));
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin_, end_));
    return milliseconds / 1e3;
  }

  Buffer slots_, q_, k_, w_, e_, v_, log_decay_, beta_, level_weights_, rates_, coefficients_, o_,
      rows_, health_, counters_;
  CudaScratch scratch_;
  const DType activations_;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

}  // namespace

const char* DeviceRefusal(MemoryKind memory) {
  AdvanceArgs args;
  args.memory = memory;
  return CudaRefusal(args);
}

int DevicePromptTokens() {
  return kMinPromptTokens;
}

std::unique_ptr<MemoryDevice> CreateMemoryDevice(int /*threads*/, DType activations) {
  return std::make_unique<CudaMemoryDevice>(activations);
}

}  // namespace evenflow
