// What the engine has for one request's client, and what the client wants of the engine meanwhile.
// Shared by the engine thread (producer) and one consumer at a time (a server worker); bounded by
// the engine, which pauses a request whose outbox is full. Thread-safe.
#ifndef EVENFLOW_ENGINE_OUTBOX_H_
#define EVENFLOW_ENGINE_OUTBOX_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "engine/mutex.h"
#include "engine/wiped.h"
#include "kernels/sampling.h"

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"

namespace evenflow {

using SteadyTime = std::chrono::steady_clock::time_point;

struct TokenEvent {
  SampledToken sampled;
  int64_t position = 0;  // of the session after this token
  SteadyTime step_end;   // when the step that sampled it was collected
};

using TokenEvents = WipedVector<TokenEvent>;

enum class FinishReason { kStopToken, kStopString, kLength, kInterrupted, kRead };

// The one end of a request. With a status other than OK, `reason` means nothing.
struct FinishEvent {
  absl::Status status;
  FinishReason reason = FinishReason::kRead;
  std::optional<int32_t> stop_token;  // with kStopToken; it was pushed like any other token
  int64_t position = 0;               // where the session stands
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  uint64_t seed = 0;
  SteadyTime arrived, started, first_token, last_token;  // started: the first step with its tokens
};

// A stop string was found: the first `kept` generated tokens stay, then `tail` (visible text before
// the stop string that shared a token with it, tokenized anew) is remembered in place of the rest.
struct StopRequest {
  int64_t kept = 0;
  std::vector<int32_t> tail;
};

class Outbox {
 public:
  // `wake` rouses the engine thread; called by the consumer's calls, must not block.
  explicit Outbox(std::function<void()> wake);

  // --- The engine thread's side.
  void Push(TokenEvent event);
  void Finish(FinishEvent event);  // exactly once, last

  struct Wishes {
    int64_t unread = 0;     // tokens that were pushed and not taken
    int64_t checked = 0;    // generated tokens whose text was compared with the stop strings
    int64_t confirmed = 0;  // of these, tokens that no stop string can take back any more
    bool interrupted = false;
    std::optional<StopRequest> stop;
    std::optional<absl::Status> cancelled;
  };

  Wishes Read() const;

  // --- The consumer's side.
  // Called after each Push and Finish, on the engine thread, without locks; must not block. Called
  // at once if something is there already.
  void SetOnReady(std::function<void()> on_ready);
  // Moves out what is there. True if anything was.
  bool Take(TokenEvents* events, std::optional<FinishEvent>* finish);
  // OK unless the request has finished with another status that was not taken yet.
  absl::Status Failure() const;
  // Only for requests with stop strings: how far the text was checked. Counts every token pushed, a
  // stop token included: neither generation nor the end of the request goes on without it.
  void Confirm(int64_t checked, int64_t confirmed);
  // REQUIRES: stop.kept is at least what was confirmed. The request ends with kStopString.
  void StopAt(StopRequest stop);
  void Interrupt();
  // The client left or its time is over: the request ends with this status at the next step.
  void Cancel(absl::Status why);

 private:
  const std::function<void()> wake_;
  mutable Mutex mutex_;
  std::function<void()> on_ready_ ABSL_GUARDED_BY(mutex_);
  TokenEvents events_ ABSL_GUARDED_BY(mutex_);
  std::optional<FinishEvent> finish_ ABSL_GUARDED_BY(mutex_);
  Wishes wishes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_OUTBOX_H_
