// A consumer of outboxes for tests: waits, takes, and checks text against "stop strings", which
// here are sequences of token ids.
#ifndef EVENFLOW_TESTS_ENGINE_READER_H_
#define EVENFLOW_TESTS_ENGINE_READER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/mutex.h"
#include "engine/outbox.h"

namespace evenflow {

class Reader {
 public:
  explicit Reader(std::shared_ptr<Outbox> outbox) : outbox_(std::move(outbox)) {
    outbox_->SetOnReady([bell = bell_] {
      MutexLock lock(bell->mutex);
      bell->rung = true;
      bell->changed.NotifyAll();
    });
  }

  ~Reader() { outbox_->SetOnReady(nullptr); }

  // Takes what comes until `count` tokens were taken in all, or the end.
  void ReadTokens(size_t count) {
    while (tokens.size() < count && !finish) {
      {
        MutexLock lock(bell_->mutex);
        while (!bell_->rung) {
          bell_->changed.Wait(bell_->mutex);
        }
        bell_->rung = false;
      }
      Take();
    }
  }

  const FinishEvent& ReadAll() {
    ReadTokens(SIZE_MAX);
    return *finish;
  }

  void Take() {
    TokenEvents events;
    std::optional<FinishEvent> end;
    outbox_->Take(&events, &end);
    for (const TokenEvent& event : events) {
      tokens.push_back(event.sampled.token);
      positions.push_back(event.position);
    }
    if (end) {
      ++finishes;
      finish = std::move(end);
    }
  }

  Outbox& outbox() { return *outbox_; }

  std::vector<int32_t> tokens;
  std::vector<int64_t> positions;
  std::optional<FinishEvent> finish;
  int finishes = 0;

 private:
  struct Bell {
    Mutex mutex;
    Condition changed;
    bool rung ABSL_GUARDED_BY(mutex) = false;
  };

  const std::shared_ptr<Outbox> outbox_;
  const std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
};

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_ENGINE_READER_H_
