// Where sessions' states are: in slots of the device or, while nothing uses them and others want
// their slots, in host memory. Owned and used by the engine thread.
//
// Copies go on beside the steps; a session whose state is on its way (Session::moving) has neither
// slot until it is there. There is never more than one state less than there are slots of both
// kinds: so one that is in host memory can always change places with an idle one.
#ifndef EVENFLOW_ENGINE_STATE_TIERS_H_
#define EVENFLOW_ENGINE_STATE_TIERS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "engine/host_slots.h"
#include "engine/session.h"
#include "engine/state_pool.h"
#include "kernels/backend.h"

namespace evenflow {

// Slots that `bytes` of host memory are for; fewer than two would serve nothing and are none.
// Where the default is asked for, 4 GiB if the device has memory of its own, or else none.
int HostSlotCount(const Backend& backend, size_t slot_bytes, std::optional<int64_t> bytes);

class StateTiers {
 public:
  // `pool` outlives it.
  StateTiers(Backend& backend, StatePool& pool, int host_slots);

  // --- Once a step, before it is planned.
  // Ends the moves whose copies are done.
  void Poll();
  // Moves idle sessions out, the least recently used first, until there are or will be slots for so
  // many returning sessions and as many new ones as there is room for.
  void MakeRoom(int returning, int fresh);

  // Gives the session a slot of the device if one is free, and begins to move its state there if it
  // has one. True if the session can be in a step now.
  bool Seat(const std::shared_ptr<Session>& session);

  // An idle session may be moved out; one in use keeps its slot.
  void SetIdle(const std::shared_ptr<Session>& session);
  void SetInUse(Session& session);

  // Overwrites its state, wherever that is. REQUIRES: !session.moving.
  void Release(Session& session);

  // Moves or more host memory are under way, or moves have ended since Poll, for which nothing was
  // planned yet: Poll soon.
  bool busy() const { return news_ || !moves_.empty() || host_.growing(); }

  // New states that there is room for now.
  int room() const;

  // States that there can be; less once host memory was refused.
  int places() const { return pool_.sessions() + Spare(host_.limit()); }

  int host_slots() const { return host_.limit(); }

  int host_slots_used() const { return host_.used(); }

  int64_t moved_out() const { return moved_out_; }  // so far

  int64_t moved_in() const { return moved_in_; }

 private:
  struct Move {
    std::shared_ptr<Session> session;
    SlotHandle slot;
    int host_slot = 0;
    bool out = false;
    SlotCopy copy = 0;
  };

  static int Spare(int host_slots) { return host_slots > 1 ? host_slots - 1 : 0; }

  void Begin(Move move);
  void EndMoves();
  void End(const Move& move);

  Backend& backend_;
  StatePool& pool_;
  HostSlots host_;
  std::vector<Move> moves_;
  bool news_ = false;
  int leaving_ = 0;                                    // moves out
  std::map<uint64_t, std::shared_ptr<Session>> idle_;  // on the device, least recently used first
  uint64_t turns_ = 0;
  int64_t moved_out_ = 0, moved_in_ = 0;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_STATE_TIERS_H_
