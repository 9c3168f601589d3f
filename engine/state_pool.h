// The sessions' states: slots of one size in the backend's memory, allocated once. Owned and used
// by the engine thread.
#ifndef EVENFLOW_ENGINE_STATE_POOL_H_
#define EVENFLOW_ENGINE_STATE_POOL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/backend.h"

#include "absl/status/statusor.h"

namespace evenflow {

// One tenancy of a slot. A handle from before a release never matches again.
struct SlotHandle {
  int32_t index = -1;
  uint64_t generation = 0;

  friend bool operator==(const SlotHandle& a, const SlotHandle& b) {
    return a.index == b.index && a.generation == b.generation;
  }
};

// Invariant: a free slot holds the initial state, so nothing of its last tenant can be read.
class StatePool {
 public:
  // `sessions` slots for sessions and as many for checkpoints, which cost nothing until they are
  // used where the device's memory is lazy. RESOURCE_EXHAUSTED when they do not fit.
  static absl::StatusOr<std::unique_ptr<StatePool>> Create(Backend& backend, size_t slot_bytes,
                                                           int sessions);
  ~StatePool();
  StatePool(const StatePool&) = delete;
  StatePool& operator=(const StatePool&) = delete;

  // A slot in the initial state; nullopt when all are taken.
  std::optional<SlotHandle> Acquire() { return Take(free_sessions_); }

  // REQUIRES: no more checkpoints than session slots are held.
  SlotHandle AcquireCheckpoint() { return Take(free_checkpoints_).value(); }

  // Overwrites the slot, in order after the steps launched so far. REQUIRES: IsCurrent(handle).
  void Release(SlotHandle handle);
  // Copies a state, in order with the steps around. REQUIRES: both are current.
  void Copy(SlotHandle to, SlotHandle from);

  bool IsCurrent(SlotHandle handle) const;

  const Slots& slots() const { return slots_; }

  int sessions() const { return sessions_; }

  int free() const { return static_cast<int>(free_sessions_.size()); }

  int used() const { return sessions_ - free(); }

 private:
  StatePool(Backend& backend, Slots slots, int sessions);
  std::optional<SlotHandle> Take(std::vector<int32_t>& free);

  struct Tenancy {
    uint64_t generation = 0;
    bool taken = false;
  };

  Backend& backend_;
  const Slots slots_;
  const int sessions_;
  std::vector<Tenancy> tenancies_;      // [slot]; checkpoints come after the sessions
  std::vector<int32_t> free_sessions_;  // the most recently released last
  std::vector<int32_t> free_checkpoints_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_STATE_POOL_H_
