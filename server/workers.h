// A few threads that run closures in the order they came. Owned by Server. Thread-safe.
#ifndef EVENFLOW_SERVER_WORKERS_H_
#define EVENFLOW_SERVER_WORKERS_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace evenflow {

class Workers {
 public:
  explicit Workers(int threads);
  // Runs what was added, then joins.
  ~Workers();

  // Does not wait; safe on the engine thread.
  void Add(std::function<void()> work);

 private:
  void Loop();

  absl::Mutex mutex_;
  absl::CondVar added_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_WORKERS_H_
