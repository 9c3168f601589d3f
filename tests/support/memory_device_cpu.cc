#include <chrono>
#include <climits>
#include <cstring>
#include <memory>

#include "kernels/backend.h"
#include "kernels/cpu/step.h"

#include "tests/support/memory_device.h"
#include "tests/support/memory_sessions.h"

namespace evenflow {
namespace {

class CpuMemoryDevice : public MemoryDevice {
 public:
  explicit CpuMemoryDevice(int threads) : pool_(threads) {}

  std::byte* Allocate(size_t bytes) override {
    return static_cast<std::byte*>(backend_->Allocate(bytes));
  }

  void Upload(std::byte* to, const void* from, size_t bytes) override {
    std::memcpy(to, from, bytes);
  }

  void Download(void* to, const std::byte* from, size_t bytes) override {
    std::memcpy(to, from, bytes);
  }

  double Advance(AdvanceArgs args, const MemoryInputs& inputs, CpuStep* step,
                 std::vector<float>* o) override {
    args.q = inputs.q.data();
    args.k = inputs.k.data();
    args.e = inputs.e.data();
    args.v = inputs.v.data();
    args.log_decay = inputs.log_decay.data();
    args.beta = inputs.beta.data();
    args.level_weights = inputs.level_weights.data();
    args.o = o->data();
    return Seconds([&] { CpuAdvance(args, *step, pool_); });
  }

  double Precondition(const PreconditionArgs& args, CpuStep* step) override {
    return Seconds([&] { CpuPrecondition(args, *step, pool_); });
  }

  int64_t StateIndex(const MemoryShape& shape, int key, int column) const override {
    return int64_t{key} * shape.value_dim + column;
  }

 private:
  template <class Work>
  static double Seconds(const Work& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  WorkerPool pool_;
  // Owns the memory, as that of a server's sessions: with large pages, where the system has them.
  const std::unique_ptr<Backend> backend_ = CreateCpuBackend({.threads = 1});
};

}  // namespace

const char* DeviceRefusal(MemoryKind /*memory*/) {
  return nullptr;
}

int DevicePromptTokens() {
  return INT_MAX;
}

std::unique_ptr<MemoryDevice> CreateMemoryDevice(int threads, DType /*activations*/) {
  return std::make_unique<CpuMemoryDevice>(threads);
}

}  // namespace evenflow
