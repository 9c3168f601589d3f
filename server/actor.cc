#include "server/actor.h"

namespace evenflow {

bool Actor::Claim() {
  State seen = State::kIdle;
  while (!state_.compare_exchange_weak(
      seen, seen == State::kIdle ? State::kRunning : State::kRunAgain, std::memory_order_acq_rel)) {
  }
  return seen == State::kIdle;
}

void Actor::Run() {
  State expected = State::kRunning;
  do {
    state_.store(State::kRunning, std::memory_order_release);
    Step();
    expected = State::kRunning;
  } while (!state_.compare_exchange_strong(expected, State::kIdle, std::memory_order_acq_rel));
}

void Actor::Poke() {
  if (Claim()) {
    workers_.Add([self = shared_from_this()] { self->Run(); });
  }
}

void Actor::PokeHere() {
  if (Claim()) {
    const std::shared_ptr<Actor> self = shared_from_this();
    Run();
  }
}

}  // namespace evenflow
