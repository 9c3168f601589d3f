#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include <hwy/detect_targets.h>
#include <hwy/targets.h>
#include <sys/mman.h>

namespace evenflow {
namespace {

std::byte* SlotData(const Slots& slots, int slot) {
  return slots.base + static_cast<size_t>(slot) * slots.slot_bytes;
}

}  // namespace

CpuBackend::CpuBackend(const BackendOptions& options) : pool_(options.threads) {}

CpuBackend::~CpuBackend() {
  for (const auto& [data, bytes] : allocations_) {
    munmap(data, bytes);
  }
}

std::string CpuBackend::Describe() const {
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;  // of those compiled
  return std::string("CPU, ") + hwy::TargetName(targets & -targets) + ", " +
         std::to_string(pool_.threads()) + (pool_.threads() == 1 ? " thread" : " threads");
}

double CpuBackend::MeasureReadBandwidth() {
  if (bandwidth_ == nullptr) {
    bandwidth_ = std::make_unique<ReadBandwidth>(pool_.threads());
  }
  return bandwidth_->Measure();
}

void* CpuBackend::Allocate(size_t bytes) {
  bytes = std::max<size_t>(bytes, 1);
  void* const data =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return nullptr;
  }
  // Large pages, where the system has them, save a table walk every 4 KiB of weights read.
  madvise(data, bytes, MADV_HUGEPAGE);
  allocations_[data] = bytes;
  return data;
}

void CpuBackend::Free(void* data) {
  const auto found = allocations_.find(data);
  if (found != allocations_.end()) {
    munmap(data, found->second);
    allocations_.erase(found);
  }
}

void CpuBackend::Upload(void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}

void CpuBackend::Download(void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}

void CpuBackend::BeginStep(const StepInput& input) {
  const auto tokens = static_cast<size_t>(input.token_count);
  step_.rows.assign(input.rows, input.rows + input.row_count);
  step_.tokens.assign(input.tokens, input.tokens + input.token_count);
  step_.logit_tokens.assign(input.logit_tokens, input.logit_tokens + input.logit_count);
  step_.sampling.assign(input.sampling, input.sampling + input.logit_count);
  step_.token_row.resize(tokens);
  step_.positions.resize(tokens);
  for (int r = 0; r < input.row_count; ++r) {
    const Row& row = input.rows[r];
    for (int i = 0; i < row.tokens; ++i) {
      const auto token = static_cast<size_t>(row.first_token + i);
      step_.token_row[token] = r;
      step_.positions[token] = row.position + i;
    }
  }
  StepOutput& output = step_.output;
  output.sampled.assign(static_cast<size_t>(input.logit_count), {});
  output.health.assign(step_.rows.size() * static_cast<size_t>(output.memory_layers), {});
}

void CpuBackend::MakeRoomForHealth(int memory_layer) {
  // The number of layers is known once a model has run: its first step makes room for each.
  StepOutput& output = step_.output;
  const auto old_layers = static_cast<size_t>(output.memory_layers);
  const auto layers = std::max(old_layers, static_cast<size_t>(memory_layer) + 1);
  if (layers != old_layers) {
    std::vector<StateHealth> health(step_.rows.size() * layers);
    for (size_t i = 0; i < output.health.size(); ++i) {
      health[i / old_layers * layers + i % old_layers] = output.health[i];
    }
    output.health.swap(health);
    output.memory_layers = static_cast<int>(layers);
  }
}

void CpuBackend::Precondition(const PreconditionArgs& args) {
  MakeRoomForHealth(args.memory_layer);
  CpuPrecondition(args, step_, pool_);
}

void CpuBackend::Advance(const AdvanceArgs& args) {
  MakeRoomForHealth(args.memory_layer);
  CpuAdvance(args, step_, pool_);
}

void CpuBackend::CopySlot(const Slots& slots, int to, int from) {
  std::memmove(SlotData(slots, to), SlotData(slots, from), slots.slot_bytes);
}

void CpuBackend::ClearSlot(const Slots& slots, int slot) {
  std::memset(SlotData(slots, slot), 0, slots.slot_bytes);
}

void* CpuBackend::AllocateHost(size_t bytes) {
  return std::malloc(bytes);
}

void CpuBackend::FreeHost(void* data) {
  std::free(data);
}

SlotCopy CpuBackend::SaveSlot(const Slots& slots, int slot, void* to) {
  std::memcpy(to, SlotData(slots, slot), slots.slot_bytes);
  return 0;
}

SlotCopy CpuBackend::LoadSlot(const Slots& slots, int slot, const void* from) {
  std::memcpy(SlotData(slots, slot), from, slots.slot_bytes);
  return 0;
}

void CpuBackend::WipeHost(void* data, size_t bytes) {
  std::memset(data, 0, bytes);
}

std::unique_ptr<Backend> CreateCpuBackend(const BackendOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace evenflow
