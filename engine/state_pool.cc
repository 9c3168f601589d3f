#include "engine/state_pool.h"

#include <algorithm>
#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace evenflow {

PoolSize FitPool(const Backend& backend, size_t slot_bytes, PoolSize wanted) {
  constexpr int kDefaultSessions = 64;
  constexpr size_t kMostSessions = 1 << 16;
  // For what a device takes as it goes: graphs, scratch, copies of a step.
  constexpr size_t kSpareBytes = size_t{1} << 30;
  const size_t free = backend.FreeBytes();
  PoolSize size = wanted;
  if (free == 0) {
    size.sessions = wanted.sessions > 0 ? wanted.sessions : kDefaultSessions;
    size.checkpoints = wanted.checkpoints > 0 ? wanted.checkpoints : size.sessions;
    return size;
  }
  if (wanted.sessions == 0) {
    size_t slots = (free - std::min(kSpareBytes, free / 8)) / slot_bytes;
    slots -= std::min(slots, static_cast<size_t>(wanted.checkpoints));
    const size_t sessions = wanted.checkpoints > 0 ? slots : slots - (slots + 8) / 9;
    size.sessions = static_cast<int>(std::min(sessions, kMostSessions));
  }
  size.checkpoints = wanted.checkpoints > 0 ? wanted.checkpoints : (size.sessions + 7) / 8;
  return size;
}

absl::StatusOr<std::unique_ptr<StatePool>> StatePool::Create(Backend& backend, size_t slot_bytes,
                                                             PoolSize size) {
  const size_t slots = static_cast<size_t>(size.sessions) + static_cast<size_t>(size.checkpoints);
  size_t bytes = 0;
  void* base = nullptr;
  if (size.sessions > 0 && !__builtin_mul_overflow(slot_bytes, slots, &bytes)) {
    base = backend.Allocate(bytes);
  }
  if (base == nullptr) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "no memory for the states of %d sessions and %d checkpoints of %d bytes each%s",
        std::max(1, size.sessions), size.checkpoints, slot_bytes,
        size.sessions > 1 ? "; serve fewer sessions" : ""));
  }
  return std::unique_ptr<StatePool>(
      new StatePool(backend, {static_cast<std::byte*>(base), slot_bytes}, size));
}

StatePool::StatePool(Backend& backend, Slots slots, PoolSize size)
    : backend_(backend),
      slots_(slots),
      sessions_(size.sessions),
      tenancies_(static_cast<size_t>(size.sessions) + static_cast<size_t>(size.checkpoints)) {
  for (auto slot = static_cast<int32_t>(tenancies_.size()) - 1; slot >= 0; --slot) {
    (slot < sessions_ ? free_sessions_ : free_checkpoints_).push_back(slot);
  }
}

StatePool::~StatePool() {
  backend_.Free(slots_.base);
}

std::optional<SlotHandle> StatePool::Take(std::vector<int32_t>& free) {
  if (free.empty()) {
    return std::nullopt;
  }
  const int32_t slot = free.back();
  free.pop_back();
  Tenancy& tenancy = tenancies_[static_cast<size_t>(slot)];
  tenancy.taken = true;
  return SlotHandle{slot, ++tenancy.generation};
}

bool StatePool::IsCurrent(SlotHandle handle) const {
  if (handle.index < 0 || static_cast<size_t>(handle.index) >= tenancies_.size()) {
    return false;
  }
  const Tenancy& tenancy = tenancies_[static_cast<size_t>(handle.index)];
  return tenancy.taken && tenancy.generation == handle.generation;
}

void StatePool::Release(SlotHandle handle) {
  if (!IsCurrent(handle)) {
    std::abort();  // a slot that another session may hold
  }
  backend_.ClearSlot(slots_, handle.index);
  tenancies_[static_cast<size_t>(handle.index)].taken = false;
  (handle.index < sessions_ ? free_sessions_ : free_checkpoints_).push_back(handle.index);
}

void StatePool::Copy(SlotHandle to, SlotHandle from) {
  if (!IsCurrent(to) || !IsCurrent(from)) {
    std::abort();
  }
  backend_.CopySlot(slots_, to.index, from.index);
}

}  // namespace evenflow
