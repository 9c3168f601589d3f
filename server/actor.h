// An object that handles its events one at a time, on whichever thread is free: a gRPC call that is
// told of tokens, of writes done and of cancellation by three threads. Held by shared_ptr.
#ifndef EVENFLOW_SERVER_ACTOR_H_
#define EVENFLOW_SERVER_ACTOR_H_

#include <atomic>
#include <memory>

#include "server/workers.h"

namespace evenflow {

class Actor : public std::enable_shared_from_this<Actor> {
 public:
  explicit Actor(Workers& workers) : workers_(workers) {}

  virtual ~Actor() = default;

  // Step will run after this call began: on a worker.
  void Poke();
  // The same in the calling thread, unless another thread is at it (that one repeats).
  void PokeHere();

 protected:
  // Looks at everything that may have happened. Never runs twice at once.
  virtual void Step() = 0;

 private:
  enum class State { kIdle, kRunning, kRunAgain };

  bool Claim();
  void Run();

  Workers& workers_;
  std::atomic<State> state_{State::kIdle};
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_ACTOR_H_
