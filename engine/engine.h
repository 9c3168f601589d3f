// The engine: one thread that owns the model, the states and the device, and advances all running
// requests together, a step at a time. Every public method is thread-safe and does not wait for a
// step.
#ifndef EVENFLOW_ENGINE_ENGINE_H_
#define EVENFLOW_ENGINE_ENGINE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/model/model.h"
#include "engine/outbox.h"
#include "engine/sampler.h"
#include "kernels/backend.h"
#include "kernels/sampling.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace evenflow {

struct EngineOptions {
  // State slots, and slots for checkpoints, of which every request with stop strings takes one:
  // with none left it waits before its prompt. 0: see FitPool.
  int max_sessions = 0;
  int max_checkpoints = 0;
  // Host memory that states of idle sessions move to when others want their slots. Unset: see
  // HostSlotCount.
  std::optional<int64_t> host_memory_bytes;
  int max_queue = 256;    // requests that may wait for a slot; more are refused
  int step_tokens = 256;  // token budget of a step; decoding rows come first, prompts fill it up
  int max_rows = 256;     // sessions in one step
  int64_t max_prompt_tokens = 1 << 20;
  int outbox_tokens = 256;  // unread tokens after which a request pauses
  std::chrono::milliseconds slow_reader_limit{30'000};  // paused so long: RESOURCE_EXHAUSTED
  std::chrono::milliseconds idle_timeout{600'000};      // default of a session
  std::chrono::milliseconds max_idle_timeout{86'400'000};
  int history_tokens = 1024;  // token ids that a session remembers for penalties
};

// What one request asks of a session.
struct EngineRequest {
  std::vector<int32_t> prompt;  // ids inside the vocabulary (checked); may be empty at position > 0
  std::optional<int64_t> expected_position;
  bool generate = true;      // false: the prompt is only read
  SamplingParams sampling;   // checked by ValidateSampling before
  int64_t max_tokens = 256;  // >= 1
  int64_t min_tokens = 0;
  std::vector<int32_t> stop_tokens;  // the model's end-of-text tokens included, unless ignored
  bool has_stop_strings = false;  // the consumer checks the text and calls Outbox::Confirm / StopAt
  int priority = 0;
  std::string client;  // for fairness: the peer's address or owner
  std::optional<SteadyTime> deadline;
};

struct SessionInfo {
  std::string id;
  int64_t position = 0;
  bool busy = false;
  bool quarantined = false;
  absl::Time created, expires;
  int64_t state_bytes = 0;  // 0: there is no state yet
  bool on_host = false;     // the state is in host memory
};

// Numbers for /metrics. Counters only grow.
struct EngineGauges {
  int running = 0;  // requests that hold a slot and are not finished
  int waiting = 0;  // requests that wait for a slot
  int slots_total = 0;
  int slots_used = 0;  // by running requests, by idle sessions, and by states on their way
  int host_slots_total = 0;
  int host_slots_used = 0;
  int64_t moved_out = 0;  // states, from slots of the device to host memory
  int64_t moved_in = 0;   // and back
  int sessions = 0;
  int quarantined = 0;
};

// Called on the engine thread; must not block. All optional.
struct EngineObserver {
  struct Step {
    // To the last delivery, from planning or, if that is later, from the end of the step before.
    double seconds = 0;
    int rows = 0;
    int prompt_tokens = 0;
    int decode_tokens = 0;
  };

  std::function<void(const Step&)> on_step;
  // Within Create: steps of so many sizes were run once and recorded, so that nobody waits for it.
  std::function<void(int sizes, double seconds)> on_warm_up;
  // There is less host memory for states than was asked for: slots for so many.
  std::function<void(int host_slots)> on_host_memory_refused;
  // `plane`: index in Model::state_planes.
  std::function<void(int plane, const StateHealth&)> on_state_health;
};

// A request's hold on a session. While it lives, nobody else can use the session; when it goes, a
// kept session becomes idle and any other ends, its slot overwritten. Movable.
class SessionLease;

class Engine {
 public:
  // Starts the engine thread. `backend` outlives the engine. REQUIRES: the model was loaded for
  // steps of options.step_tokens tokens and options.max_rows logits. INVALID_ARGUMENT names the
  // option; RESOURCE_EXHAUSTED when the states do not fit; UNAVAILABLE when the device fails in its
  // first steps.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options,
                                                        std::unique_ptr<Forwarder> model,
                                                        Backend& backend, EngineObserver observer);
  // Cancels whatever runs and joins the thread.
  ~Engine();

  const Forwarder& model() const;
  const EngineOptions& options() const;  // with the numbers of slots that there are
  EngineGauges Gauges() const;

  // `id` empty: 128 random bits. INVALID_ARGUMENT, ALREADY_EXISTS, RESOURCE_EXHAUSTED.
  absl::StatusOr<SessionInfo> CreateSession(const std::string& id,
                                            std::optional<std::chrono::milliseconds> idle_timeout);
  absl::StatusOr<SessionInfo> GetSession(const std::string& id) const;  // NOT_FOUND
  std::vector<SessionInfo> ListSessions(const std::string& after,
                                        int limit) const;  // ascending ids > after
  absl::Status DeleteSession(const std::string& id);       // NOT_FOUND, ABORTED while leased

  // Empty id: a new session that ends with the lease. NOT_FOUND, ABORTED (leased by another
  // request), FAILED_PRECONDITION (quarantined), UNAVAILABLE (draining).
  absl::StatusOr<SessionLease> Attach(const std::string& session_id);

  // Queues the request on the leased session, one at a time. Everything that can be known is
  // checked now: INVALID_ARGUMENT, FAILED_PRECONDITION, RESOURCE_EXHAUSTED (queue full),
  // UNAVAILABLE. After OK the outbox ends with exactly one Finish. The lease must outlive that.
  absl::StatusOr<std::shared_ptr<Outbox>> Submit(SessionLease& lease, EngineRequest request);

  // No new requests or sessions from now on (UNAVAILABLE). Returns when nothing runs any more or at
  // the deadline, then cancelling the rest with UNAVAILABLE.
  void Drain(SteadyTime deadline);

 private:
  friend class SessionLease;
  class Impl;
  explicit Engine(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;  // leases that outlive the engine share it
};

class SessionLease {
 public:
  SessionLease() = default;
  SessionLease(SessionLease&& other) noexcept;
  SessionLease& operator=(SessionLease&& other) noexcept;
  ~SessionLease();

  const std::string& session_id() const;  // "" for one that ends with the lease
  int64_t position() const;  // tokens read and written, the newest (pending) one included

 private:
  friend class Engine;
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_ENGINE_H_
