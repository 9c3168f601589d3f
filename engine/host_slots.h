// Host memory for the states of idle sessions: slots of one size, made ready a block at a time when
// they are wanted, on a thread of their own as that takes longer than many steps. Owned and used by
// the engine thread.
#ifndef EVENFLOW_ENGINE_HOST_SLOTS_H_
#define EVENFLOW_ENGINE_HOST_SLOTS_H_

#include <cstddef>
#include <cstdint>
#include <future>
#include <optional>
#include <vector>

#include "kernels/backend.h"

namespace evenflow {

class HostSlots {
 public:
  // At most `limit` slots, of which none is ready yet.
  HostSlots(Backend& backend, size_t slot_bytes, int limit);
  ~HostSlots();
  HostSlots(const HostSlots&) = delete;
  HostSlots& operator=(const HostSlots&) = delete;

  std::optional<int> Acquire();  // nullopt: none is ready
  // Wipes it before it is written to again. REQUIRES: no copy reads it.
  void Release(int slot);

  // Begins to make more of them ready, unless that is under way or there may be no more.
  void Grow();
  // Takes what is ready by now.
  void Poll();

  bool growing() const { return next_block_.valid(); }

  std::byte* data(int slot) const;

  int ready() const { return ready_; }

  int free() const { return static_cast<int>(free_.size()); }

  int used() const { return ready_ - free(); }

  int limit() const { return limit_; }  // no more than are ready, once memory was refused

 private:
  int NextBlock() const;  // slots

  Backend& backend_;
  const size_t slot_bytes_;
  const int block_slots_;  // of every block but the last
  int limit_;
  int ready_ = 0;
  std::vector<std::byte*> blocks_;
  std::vector<int> free_;          // the most recently released last
  std::future<void*> next_block_;  // under way
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_HOST_SLOTS_H_
