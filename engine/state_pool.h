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

// Slots of each kind.
struct PoolSize {
  int sessions = 0;
  int checkpoints = 0;
};

// What fits into the device's free memory, where something is wanted as 0. An eighth of the slots
// for sessions is enough for checkpoints; but where memory costs nothing until it is used
// (FreeBytes() is 0), there are as many.
PoolSize FitPool(const Backend& backend, size_t slot_bytes, PoolSize wanted);

// Invariant: a free slot holds the initial state, so nothing of its last tenant can be read.
class StatePool {
 public:
  // RESOURCE_EXHAUSTED when there is no memory for so many slots, or none.
  static absl::StatusOr<std::unique_ptr<StatePool>> Create(Backend& backend, size_t slot_bytes,
                                                           PoolSize size);
  ~StatePool();
  StatePool(const StatePool&) = delete;
  StatePool& operator=(const StatePool&) = delete;

  // A slot in the initial state; nullopt when all are taken.
  std::optional<SlotHandle> Acquire() { return Take(free_sessions_); }

  // A slot for a checkpoint; nullopt when all are taken.
  std::optional<SlotHandle> AcquireCheckpoint() { return Take(free_checkpoints_); }

  // Overwrites the slot, in order after the steps launched so far. REQUIRES: IsCurrent(handle).
  void Release(SlotHandle handle);
  // Copies a state, in order with the steps around. REQUIRES: both are current.
  void Copy(SlotHandle to, SlotHandle from);

  bool IsCurrent(SlotHandle handle) const;

  const Slots& slots() const { return slots_; }

  int sessions() const { return sessions_; }

  int free() const { return static_cast<int>(free_sessions_.size()); }

  bool has_checkpoints() const { return !free_checkpoints_.empty(); }

  int used() const { return sessions_ - free(); }

 private:
  StatePool(Backend& backend, Slots slots, PoolSize size);
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
