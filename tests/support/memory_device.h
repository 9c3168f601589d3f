// Where MemorySessions (tests/support/memory_sessions.h) keeps its slots and advances them. A
// program links one of memory_device_cpu.cc and memory_device_cuda.cu. One thread.
#ifndef EVENFLOW_TESTS_SUPPORT_MEMORY_DEVICE_H_
#define EVENFLOW_TESTS_SUPPORT_MEMORY_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/step.h"

namespace evenflow {

struct MemoryInputs;

class MemoryDevice {
 public:
  virtual ~MemoryDevice() = default;

  // 64-byte aligned, the device's own, until it is destroyed.
  virtual std::byte* Allocate(size_t bytes) = 0;
  virtual void Upload(std::byte* to, const void* from, size_t bytes) = 0;
  virtual void Download(void* to, const std::byte* from, size_t bytes) = 0;

  // Advances args.slots by the rows of `step`, which have `inputs`; sets step->output.health and
  // fills `o` [token, output_heads, value_dim], which has its size. Returns the seconds it took.
  virtual double Advance(AdvanceArgs args, const MemoryInputs& inputs, CpuStep* step,
                         std::vector<float>* o) = 0;

  // What comes before some memories, with inputs and outputs where the host has them; returns the
  // seconds that it took.
  virtual double Precondition(const PreconditionArgs& args, CpuStep* step) = 0;

  // Where an element lies in a head's state.
  virtual int64_t StateIndex(const MemoryShape& shape, int key, int column) const = 0;
};

// What the device does not serve of that memory; nullptr: it serves it.
const char* DeviceRefusal(MemoryKind memory);

// Rows of that many tokens and more may be read by other kernels than shorter ones, whose results
// differ by what they round; INT_MAX: all rows give the same bits.
int DevicePromptTokens();

// `threads`: of the CPU. `activations`: as BackendOptions has it.
std::unique_ptr<MemoryDevice> CreateMemoryDevice(int threads, DType activations);

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_SUPPORT_MEMORY_DEVICE_H_
