#include "engine/state_tiers.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace evenflow {

int HostSlotCount(const Backend& backend, size_t slot_bytes, std::optional<int64_t> bytes) {
  constexpr int64_t kDefaultBytes = int64_t{4} << 30;
  constexpr int64_t kMostSlots = 1 << 20;
  const int64_t wanted = bytes.value_or(backend.FreeBytes() > 0 ? kDefaultBytes : 0);
  const int64_t slots = wanted / static_cast<int64_t>(slot_bytes);
  return slots < 2 ? 0 : static_cast<int>(std::min(slots, kMostSlots));
}

StateTiers::StateTiers(Backend& backend, StatePool& pool, int host_slots)
    : backend_(backend), pool_(pool), host_(backend, pool.slots().slot_bytes, host_slots) {}

int StateTiers::room() const {
  // A moving state has a slot of both kinds.
  const int held = pool_.used() + host_.used() - static_cast<int>(moves_.size());
  return pool_.sessions() + Spare(host_.ready()) - held;
}

void StateTiers::Poll() {
  host_.Poll();
  EndMoves();
  news_ = false;
}

void StateTiers::EndMoves() {
  for (size_t i = 0; i < moves_.size();) {
    if (backend_.CopyDone(moves_[i].copy)) {
      std::swap(moves_[i], moves_.back());
      const Move move = std::move(moves_.back());
      moves_.pop_back();
      End(move);
    } else {
      ++i;
    }
  }
}

void StateTiers::MakeRoom(int returning, int fresh) {
  const auto lack = [this](int wanted) { return wanted - pool_.free() - leaving_; };
  const int wanted = returning + std::min(fresh, room());
  if ((fresh > room() || lack(wanted) > 0) && host_.free() < 2) {
    host_.Grow();
  }
  while (lack(wanted) > 0 && !idle_.empty()) {
    moves_.reserve(moves_.size() + 1);
    const std::optional<int> host_slot = host_.Acquire();
    if (!host_slot) {
      break;
    }
    const std::shared_ptr<Session> session = idle_.begin()->second;
    SetInUse(*session);
    Begin({session, *std::exchange(session->slot, std::nullopt), *host_slot, true});
  }
  EndMoves();
}

bool StateTiers::Seat(const std::shared_ptr<Session>& session) {
  if (session->slot || session->moving) {
    return session->slot.has_value();
  }
  if (!session->host_slot && room() <= 0) {
    return false;
  }
  moves_.reserve(moves_.size() + 1);
  const std::optional<SlotHandle> slot = pool_.Acquire();
  if (!slot) {
    return false;
  }
  if (!session->host_slot) {
    session->slot = slot;
    session->place.store(StatePlace::kDevice);
    return true;
  }
  Begin({session, *slot, *std::exchange(session->host_slot, std::nullopt), false});
  EndMoves();
  return session->slot.has_value();
}

// Nothing here may fail halfway: moves_ has room.
void StateTiers::Begin(Move move) {
  void* const host = host_.data(move.host_slot);
  move.copy = move.out ? backend_.SaveSlot(pool_.slots(), move.slot.index, host)
                       : backend_.LoadSlot(pool_.slots(), move.slot.index, host);
  move.session->moving = true;
  leaving_ += move.out ? 1 : 0;
  ++(move.out ? moved_out_ : moved_in_);
  moves_.push_back(std::move(move));
}

void StateTiers::End(const Move& move) {
  Session& session = *move.session;
  session.moving = false;
  news_ = true;
  if (move.out) {
    --leaving_;
    session.host_slot = move.host_slot;
    session.place.store(StatePlace::kHost);
    pool_.Release(move.slot);
    return;
  }
  session.slot = move.slot;
  session.place.store(StatePlace::kDevice);
  host_.Release(move.host_slot);
  if (session.holder == nullptr) {
    SetIdle(move.session);  // what it was brought back for is gone
  }
}

void StateTiers::SetIdle(const std::shared_ptr<Session>& session) {
  if (session->slot && session->idle_turn == 0) {
    idle_.emplace(++turns_, session);
    session->idle_turn = turns_;
  }
}

void StateTiers::SetInUse(Session& session) {
  idle_.erase(std::exchange(session.idle_turn, 0));
}

void StateTiers::Release(Session& session) {
  if (session.moving) {
    std::abort();  // a copy would write over what comes next
  }
  SetInUse(session);
  if (session.slot) {
    pool_.Release(*session.slot);
    session.slot.reset();
  }
  if (session.host_slot) {
    host_.Release(*session.host_slot);
    session.host_slot.reset();
  }
  session.place.store(StatePlace::kNowhere);
}

}  // namespace evenflow
