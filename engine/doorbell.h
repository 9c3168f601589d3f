// Rouses the engine thread: rung by anyone, waited for by that thread alone. Thread-safe.
#ifndef EVENFLOW_ENGINE_DOORBELL_H_
#define EVENFLOW_ENGINE_DOORBELL_H_

#include <atomic>

#include "engine/mutex.h"
#include "engine/outbox.h"

namespace evenflow {

class Doorbell {
 public:
  // Whatever was written before is seen by the waiter after.
  void Ring() {
    if (!rung_.exchange(true)) {
      MutexLock lock(mutex_);
      rang_.NotifyAll();
    }
  }

  // Returns once it was rung since the last return, or at `until`.
  void Wait(SteadyTime until) {
    MutexLock lock(mutex_);
    while (!rung_.exchange(false) && std::chrono::steady_clock::now() < until) {
      rang_.WaitUntil(mutex_, until);
    }
  }

 private:
  std::atomic<bool> rung_{false};
  Mutex mutex_;
  Condition rang_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_DOORBELL_H_
