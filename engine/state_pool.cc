#include "engine/state_pool.h"

#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace evenflow {

absl::StatusOr<std::unique_ptr<StatePool>> StatePool::Create(Backend& backend, size_t slot_bytes,
                                                             int sessions) {
  size_t bytes = 0;
  void* base = nullptr;
  if (!__builtin_mul_overflow(slot_bytes, 2 * static_cast<size_t>(sessions), &bytes)) {
    base = backend.Allocate(bytes);
  }
  if (base == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no memory for the states of %d sessions of %d bytes each (and as many "
                        "checkpoints); serve fewer sessions",
                        sessions, slot_bytes));
  }
  const Slots slots{static_cast<std::byte*>(base), slot_bytes};
  return std::unique_ptr<StatePool>(new StatePool(backend, slots, sessions));
}

StatePool::StatePool(Backend& backend, Slots slots, int sessions)
    : backend_(backend),
      slots_(slots),
      sessions_(sessions),
      tenancies_(2 * static_cast<size_t>(sessions)) {
  for (int32_t slot = sessions - 1; slot >= 0; --slot) {
    free_sessions_.push_back(slot);
    free_checkpoints_.push_back(sessions + slot);
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
