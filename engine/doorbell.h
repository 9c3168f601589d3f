// Rouses the engine thread: rung by anyone, waited for by that thread alone. Thread-safe.
#ifndef EVENFLOW_ENGINE_DOORBELL_H_
#define EVENFLOW_ENGINE_DOORBELL_H_

#include <atomic>

#include "engine/outbox.h"

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace evenflow {

class Doorbell {
 public:
  // Whatever was written before is seen by the waiter after.
  void Ring() {
    if (!rung_.exchange(true)) {
      absl::MutexLock lock(&mutex_);
      rang_.Signal();
    }
  }

  // Returns once it was rung since the last return, or at `until`.
  void Wait(SteadyTime until) {
    absl::MutexLock lock(&mutex_);
    while (!rung_.exchange(false)) {
      const SteadyTime now = std::chrono::steady_clock::now();
      if (until == SteadyTime::max()) {
        rang_.Wait(&mutex_);
      } else if (now >= until) {
        return;
      } else {
        rang_.WaitWithTimeout(&mutex_, absl::FromChrono(until - now));
      }
    }
  }

 private:
  std::atomic<bool> rung_{false};
  absl::Mutex mutex_;
  absl::CondVar rang_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_DOORBELL_H_
