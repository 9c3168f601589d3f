// The inside of the engine. Callers' threads and the engine thread meet in the members under
// mutex_, which is never held while a step computes or a consumer is called.
#ifndef EVENFLOW_ENGINE_ENGINE_IMPL_H_
#define EVENFLOW_ENGINE_ENGINE_IMPL_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/active_request.h"
#include "engine/doorbell.h"
#include "engine/engine.h"
#include "engine/mutex.h"
#include "engine/scheduler.h"
#include "engine/session.h"
#include "engine/state_pool.h"
#include "engine/state_tiers.h"

#include "absl/base/thread_annotations.h"

namespace evenflow {

class Engine::Impl {
 public:
  Impl(const EngineOptions& engine_options, std::unique_ptr<Forwarder> forwarder, Backend& device,
       std::unique_ptr<StatePool> states, int host_slots);
  // Runs the first steps and starts the thread.
  absl::Status Start(EngineObserver observer);
  // Ends every request with UNAVAILABLE, joins the thread and frees the states and the model.
  void Stop();

  // --- Callers' side (engine_calls.cc).
  absl::StatusOr<SessionInfo> CreateSession(const std::string& id,
                                            std::optional<std::chrono::milliseconds> idle_timeout);
  absl::StatusOr<SessionInfo> GetSession(const std::string& id) const;
  std::vector<SessionInfo> ListSessions(const std::string& after, int limit) const;
  absl::Status DeleteSession(const std::string& id);
  absl::StatusOr<std::shared_ptr<Session>> Attach(const std::string& id);
  void Detach(const std::shared_ptr<Session>& session);
  absl::StatusOr<std::shared_ptr<Outbox>> Submit(const std::shared_ptr<Session>& session,
                                                 EngineRequest request);
  void Drain(SteadyTime deadline);
  EngineGauges Gauges() const;

  const Forwarder& model() const { return *forwarder_; }

  const EngineOptions options;

 private:
  // One row of a step: what a request feeds in it.
  struct BatchRow {
    ActiveRequest* request = nullptr;
    int logit = -1;  // index of its sample; -1: none
  };

  // A step, from its plan to its completion.
  struct Batch {
    SteadyTime planned;
    std::vector<BatchRow> requests;  // [row]
    std::vector<Row> rows;
    WipedVector<int32_t> tokens;
    std::vector<int32_t> logit_tokens;
    std::vector<SamplingRow> sampling;  // [logit]
    int decode_tokens = 0;
    Ticket ticket = 0;
    const StepOutput* output = nullptr;  // once collected
  };

  struct Ended {
    std::shared_ptr<Outbox> outbox;
    std::shared_ptr<Session> session;
    FinishEvent event;
  };

  absl::Status CheckRequest(const EngineRequest& request) const;
  absl::Status CheckTurn(const Session& session, const EngineRequest& request) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  SessionInfo Describe(const Session& session) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NoteExpiry(const Session& session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End(const std::shared_ptr<Session>& session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Status RunFirstSteps();

  // --- The engine thread's side (engine_step.cc: a step; engine_requests.cc: one request).
  void Run();
  // False if there was nothing to do.
  bool Step();
  Batch Plan();
  bool Launch(Batch batch);
  std::optional<Batch> Collect(bool launched);
  void Deliver(const std::optional<Batch>& batch);
  bool Complete();

  void TakeCalls(SteadyTime now);
  void TakePlaces();
  // False if its state or a checkpoint has no slot yet.
  bool AddRow(ActiveRequest& request, int tokens, Batch* batch);
  bool DeliverHealth(const Batch& batch, size_t row);
  void DeliverToken(ActiveRequest& request, const SampledToken& sampled, SteadyTime step_end);
  void Attend(ActiveRequest& request, SteadyTime now);
  absl::Status Dismissal(const ActiveRequest& request, const Outbox::Wishes& wishes,
                         SteadyTime now) const;
  bool GoesAhead(const ActiveRequest& request, const Outbox::Wishes& wishes) const;
  bool ReaderKeepsUp(const ActiveRequest& request, const Outbox::Wishes& wishes) const;
  void PauseOrGo(ActiveRequest& request, const Outbox::Wishes& wishes, SteadyTime now);
  void TakeCheckpoint(ActiveRequest& request);
  void GoBack(ActiveRequest& request, const StopRequest& stop);
  void Finish(ActiveRequest& request, absl::Status status, FinishReason reason);
  void Quarantine(ActiveRequest& request, const std::string& why);
  bool CanGoOn(const ActiveRequest& request) const;
  void Forget(const ActiveRequest& request);
  bool CloseSessions();
  void UpdateGauges() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FailRunning(const std::string& why);
  SteadyTime NextTimer() const;

  std::unique_ptr<Forwarder> forwarder_;
  const Window window_ = forwarder_->window();
  const size_t state_bytes_ = forwarder_->slot_bytes();
  Backend& backend_;
  std::unique_ptr<StatePool> pool_;  // the engine thread's own, as tiers_ and places_
  std::unique_ptr<StateTiers> tiers_;
  int places_ = tiers_->places();  // as of the last step
  const std::shared_ptr<Doorbell> doorbell_ = std::make_shared<Doorbell>();
  std::thread thread_;

  mutable Mutex mutex_;
  Condition all_finished_;  // unfinished_ became 0
  SessionTable sessions_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<ActiveRequest>> inbox_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Session>> ended_sessions_ ABSL_GUARDED_BY(mutex_);
  // Places for states, on the device and in host memory, that no session has a claim on; negative:
  // so many requests wait for one.
  int unclaimed_places_ ABSL_GUARDED_BY(mutex_);
  int unfinished_ ABSL_GUARDED_BY(mutex_) = 0;  // accepted requests without a FinishEvent
  // Of the engine thread's numbers, those of the last step.
  EngineGauges gauges_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  SteadyTime next_expiry_ ABSL_GUARDED_BY(mutex_) = SteadyTime::max();  // not later than that
  absl::Status dismissal_ ABSL_GUARDED_BY(mutex_);  // not OK: what every request ends with

  // The engine thread's own.
  EngineObserver observer_;
  std::vector<std::unique_ptr<ActiveRequest>> requests_;  // in order of arrival
  std::map<std::string, ClientShare> clients_;
  std::deque<Batch> in_flight_;  // launched, not collected
  std::vector<Ended> ended_;     // to be told
  std::vector<std::shared_ptr<Session>> closing_;
  absl::Status dismissed_;
  uint64_t step_ = 0;
  SteadyTime step_end_;  // of the newest step that was delivered
  // Tokens wait longer than a step. Threads that deliver them may wait for this thread's processor:
  // steps of microseconds would keep them waiting for milliseconds.
  bool readers_behind_ = false;
  int64_t clients_seen_ = 0;
};

// What a lease holds. The last one to go detaches the session.
struct SessionLease::State {
  State(std::shared_ptr<Engine::Impl> engine, std::shared_ptr<Session> leased)
      : impl(std::move(engine)), session(std::move(leased)) {}

  ~State() { impl->Detach(session); }

  State(const State&) = delete;
  State& operator=(const State&) = delete;

  const std::shared_ptr<Engine::Impl> impl;
  const std::shared_ptr<Session> session;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_ENGINE_IMPL_H_
