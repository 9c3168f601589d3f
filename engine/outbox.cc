#include "engine/outbox.h"

#include <utility>

namespace evenflow {

Outbox::Outbox(std::function<void()> wake) : wake_(std::move(wake)) {}

void Outbox::Push(TokenEvent event) {
  std::function<void()> on_ready;
  {
    MutexLock lock(mutex_);
    events_.push_back(std::move(event));
    ++wishes_.unread;
    on_ready = on_ready_;
  }
  if (on_ready) {
    on_ready();
  }
}

void Outbox::Finish(FinishEvent event) {
  std::function<void()> on_ready;
  {
    MutexLock lock(mutex_);
    finish_ = std::move(event);
    on_ready = on_ready_;
  }
  if (on_ready) {
    on_ready();
  }
}

Outbox::Wishes Outbox::Read() const {
  MutexLock lock(mutex_);
  return wishes_;
}

void Outbox::SetOnReady(std::function<void()> on_ready) {
  bool ready = false;
  {
    MutexLock lock(mutex_);
    on_ready_ = on_ready;
    ready = !events_.empty() || finish_.has_value();
  }
  if (ready && on_ready) {
    on_ready();
  }
}

bool Outbox::Take(TokenEvents* events, std::optional<FinishEvent>* finish) {
  events->clear();
  finish->reset();
  bool was_full = false;
  {
    MutexLock lock(mutex_);
    events->swap(events_);
    finish->swap(finish_);
    was_full = wishes_.unread > 0;
    wishes_.unread = 0;
  }
  if (was_full) {
    wake_();
  }
  return !events->empty() || finish->has_value();
}

absl::Status Outbox::Failure() const {
  MutexLock lock(mutex_);
  return finish_.has_value() ? finish_->status : absl::OkStatus();
}

void Outbox::Confirm(int64_t checked, int64_t confirmed) {
  {
    MutexLock lock(mutex_);
    wishes_.checked = checked;
    wishes_.confirmed = confirmed;
  }
  wake_();
}

void Outbox::StopAt(StopRequest stop) {
  {
    MutexLock lock(mutex_);
    wishes_.stop = std::move(stop);
  }
  wake_();
}

void Outbox::Interrupt() {
  {
    MutexLock lock(mutex_);
    wishes_.interrupted = true;
  }
  wake_();
}

void Outbox::Cancel(absl::Status why) {
  {
    MutexLock lock(mutex_);
    if (!wishes_.cancelled.has_value()) {
      wishes_.cancelled = std::move(why);
    }
  }
  wake_();
}

}  // namespace evenflow
