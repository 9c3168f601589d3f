// The calls that must hear of a drain though nothing happens on them. Thread-safe.
#ifndef EVENFLOW_SERVER_LIVE_CALLS_H_
#define EVENFLOW_SERVER_LIVE_CALLS_H_

#include <memory>
#include <vector>

#include "server/actor.h"

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace evenflow {

class LiveCalls {
 public:
  void Add(const std::shared_ptr<Actor>& call) {
    absl::MutexLock lock(&mutex_);
    calls_[call.get()] = call;
  }

  void Remove(Actor* call) {
    absl::MutexLock lock(&mutex_);
    calls_.erase(call);
  }

  void PokeAll() {
    std::vector<std::shared_ptr<Actor>> calls;
    {
      absl::MutexLock lock(&mutex_);
      for (const auto& [key, weak] : calls_) {
        if (std::shared_ptr<Actor> call = weak.lock(); call != nullptr) {
          calls.push_back(std::move(call));
        }
      }
    }
    for (const std::shared_ptr<Actor>& call : calls) {
      call->Poke();
    }
  }

 private:
  absl::Mutex mutex_;
  absl::flat_hash_map<Actor*, std::weak_ptr<Actor>> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_LIVE_CALLS_H_
