// A request that the engine has accepted: what it asks, how far it is, and the checkpoint that a
// stop string can take it back to. Made by Submit, then the engine thread's alone.
#ifndef EVENFLOW_ENGINE_ACTIVE_REQUEST_H_
#define EVENFLOW_ENGINE_ACTIVE_REQUEST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/engine.h"
#include "engine/scheduler.h"
#include "engine/session.h"
#include "engine/wiped.h"

namespace evenflow {

// A state from a moment when every generated token was beyond recall, and what came after it.
struct Checkpoint {
  int64_t position = 0;         // tokens in the copied state
  TokenHistory history;         // as of then
  WipedVector<int32_t> tokens;  // those known from `position` on
};

// Whose requests these are, for fairness. Kept while there are any.
struct ClientShare {
  int64_t id = 0;
  int requests = 0;
  SteadyTime served = SteadyTime::min();  // when input of it was last fed
};

class ActiveRequest {
 public:
  ActiveRequest(EngineRequest request, std::shared_ptr<Session> owner,
                std::shared_ptr<Outbox> answers);
  ~ActiveRequest();  // overwrites the prompt
  ActiveRequest(const ActiveRequest&) = delete;
  ActiveRequest& operator=(const ActiveRequest&) = delete;

  // --- What it feeds next. REQUIRES: its session's turn is its own.
  // As the scheduler sees it. REQUIRES: reading, generating or replaying.
  Task NextTask() const;
  // Feeds the `count` tokens that come next: appends their ids to `ids`, makes them known to the
  // session and counts them into its state. True if a token is to be sampled after them.
  bool Feed(int count, WipedVector<int32_t>* ids);
  // For the sample after what was fed, the `sample`-th of its step.
  SamplingRow Sampling(int sample);
  // Remembers a token that was sampled.
  void Append(int32_t token);
  // Takes back what was fed after the newest token was sampled, before that token was known.
  // REQUIRES: it is no more than the window's rollback.
  void TakeBack();

  // --- Where it stands.
  bool reading() const;  // has input to feed

  bool replaying() const { return replay_end_ && session->in_state < *replay_end_; }

  bool StopsAt(int32_t token) const;

  bool has_stop_tokens() const { return !stop_tokens_.empty(); }

  int64_t generated() const { return generated_; }

  // Tokens that the steps under way will draw for it.
  int64_t awaited() const;

  // Makes the last token of an input that was only read known. REQUIRES: !reading().
  void EndReading();
  FinishEvent Event(absl::Status status, FinishReason reason) const;

  // --- Stop strings: going back.
  // It will take a checkpoint and has no slot for it yet.
  bool NeedsCheckpointSlot() const;
  // Before feeding `count` tokens: is this the last state to which every stop string can go back?
  bool NeedsCheckpoint(int count) const;
  // Enough was generated since the checkpoint to renew it once everything is confirmed.
  bool RefreshDue() const;
  // The state has just been copied to checkpoint_slot. REQUIRES: what was generated is confirmed.
  void SetCheckpoint();
  // The session is as if only the prompt, `stop.kept` generated tokens and `stop.tail` had been
  // there; what of that is not in the state is fed again by the next tasks. True if the state must
  // be copied back from the checkpoint first. INTERNAL when `stop` is before the checkpoint.
  absl::StatusOr<bool> Rewind(const StopRequest& stop, int vocab_size);

  EngineRequest asked;  // constant
  const std::shared_ptr<Session> session;
  const std::shared_ptr<Outbox> outbox;
  const SteadyTime arrived = std::chrono::steady_clock::now();
  ClientShare* client = nullptr;
  uint64_t last_step = 0;
  bool interrupted = false;
  int in_flight = 0;                       // steps with it that were not collected yet
  bool waits = false;                      // for those, before anything else
  bool finished = false;                   // its FinishEvent is made
  std::optional<FinishReason> ending;      // ends so once its text was checked
  std::optional<SteadyTime> paused_since;  // waits for its reader
  SteadyTime started, first_token, last_token;
  std::optional<int32_t> stop_token;
  std::optional<SlotHandle> checkpoint_slot;
  std::optional<Checkpoint> checkpoint;

 private:
  int32_t TokenAt(int64_t position) const;
  int64_t InputEnd() const;

  const int64_t base_;                      // the session's position when it was accepted
  const int64_t prompt_end_;                // where the prompt ends
  const std::vector<int32_t> stop_tokens_;  // ascending
  int64_t generated_ = 0;
  int sample_ = 0;                     // index of its newest sample in its step
  std::optional<int64_t> replay_end_;  // after Rewind: tokens that the state shall have
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_ACTIVE_REQUEST_H_
