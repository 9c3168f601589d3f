// Sessions: what each remembers beside its state, and the table of those that outlive a request.
// The table belongs to the engine and is guarded by its lock; a session's members say their own
// rules.
#ifndef EVENFLOW_ENGINE_SESSION_H_
#define EVENFLOW_ENGINE_SESSION_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/outbox.h"
#include "engine/state_pool.h"
#include "engine/wiped.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace evenflow {

class ActiveRequest;

// The newest token ids of a session, a ring indexed by absolute position. A copy is a checkpoint.
class TokenHistory {
 public:
  explicit TokenHistory(int capacity) : capacity_(capacity) {}

  void Append(int32_t token);

  // Tokens known: read and written, the newest (pending) one included.
  int64_t position() const { return position_; }

  int32_t newest() const;  // REQUIRES: position() > 0

  // [capacity]: the token at position p is at p % capacity. nullptr before the first token.
  const int32_t* ring() const { return ring_.empty() ? nullptr : ring_.data(); }

  int32_t capacity() const { return capacity_; }

 private:
  int capacity_;
  int64_t position_ = 0;
  WipedVector<int32_t> ring_;
};

enum class StatePlace { kNowhere, kDevice, kHost };

struct Session {
  Session(std::string session_id, std::chrono::milliseconds idle, int history_tokens);

  // Constant.
  const std::string id;  // "": ends with its lease
  const absl::Time created = absl::Now();
  const std::chrono::milliseconds idle_timeout;

  // Under the engine's lock.
  bool leased = false;
  bool requested = false;     // a request was accepted and has not ended
  bool claims_place = false;  // has a state, or has an accepted request that will make one
  bool ended = false;         // waits only for the engine thread to overwrite its state
  SteadyTime expires;         // meaningful while not leased

  // Written by the engine thread, read anywhere.
  std::atomic<int64_t> position{0};  // as clients see it: history.position() at the last step's end
  std::atomic<StatePlace> place{StatePlace::kNowhere};  // of its state; where from, if on its way
  std::atomic<bool> quarantined{false};

  // The engine thread's. Tokens [0, in_state) are in the state; those up to history.position()
  // are known, of which only the newest is pending between requests.
  TokenHistory history;
  int64_t in_state = 0;
  const ActiveRequest* holder = nullptr;  // whose turn it is
  bool closing = false;                   // `ended`, as the engine thread knows it

  // The engine thread's, kept by StateTiers. Where the state is: at most one of these.
  std::optional<SlotHandle> slot;
  std::optional<int> host_slot;
  bool moving = false;     // between the two
  uint64_t idle_turn = 0;  // its place among idle sessions with a slot; 0: it is none

  bool has_state() const { return slot || host_slot || moving; }
};

// 1 to 128 of [A-Za-z0-9._-].
absl::Status ValidateSessionId(const std::string& id);
// 128 random bits in hexadecimal.
std::string RandomSessionId();

class SessionTable {
 public:
  explicit SessionTable(size_t limit) : limit_(limit) {}

  // ALREADY_EXISTS, RESOURCE_EXHAUSTED.
  absl::Status Insert(std::shared_ptr<Session> session);
  std::shared_ptr<Session> Find(const std::string& id) const;  // nullptr when there is none

  void Erase(const std::string& id) { sessions_.erase(id); }

  // In ascending order of ids greater than `after`.
  std::vector<std::shared_ptr<Session>> List(const std::string& after, size_t limit) const;
  // Removes and returns the sessions that nothing has used for as long as they may be idle.
  std::vector<std::shared_ptr<Session>> TakeExpired(SteadyTime now);
  // When the next one expires if nothing uses it; SteadyTime::max() for never.
  SteadyTime NextExpiry() const;

  size_t size() const { return sessions_.size(); }

  int quarantined() const;

 private:
  const size_t limit_;
  std::map<std::string, std::shared_ptr<Session>> sessions_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_SESSION_H_
