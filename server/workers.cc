#include "server/workers.h"

#include <utility>

namespace evenflow {

Workers::Workers(int threads) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this] { Loop(); });
  }
}

Workers::~Workers() {
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
  }
  added_.SignalAll();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

void Workers::Add(std::function<void()> work) {
  {
    absl::MutexLock lock(&mutex_);
    queue_.push_back(std::move(work));
  }
  added_.Signal();
}

void Workers::Loop() {
  while (true) {
    std::function<void()> work;
    {
      absl::MutexLock lock(&mutex_);
      while (queue_.empty() && !closing_) {
        added_.Wait(&mutex_);
      }
      if (queue_.empty()) {
        return;
      }
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    work();
  }
}

}  // namespace evenflow
