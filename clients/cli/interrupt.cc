#include "clients/cli/interrupt.h"

#include <array>
#include <utility>

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace evenflow {
namespace {

sigset_t InterruptSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

Interrupt::Interrupt(std::function<void()> on_interrupt) {
  const sigset_t signals = InterruptSignals();
  pthread_sigmask(SIG_BLOCK, &signals, &mask_before_);
  signal_fd_ = signalfd(-1, &signals, SFD_CLOEXEC);
  end_fd_ = eventfd(0, EFD_CLOEXEC);
  watcher_ = std::thread([this, call = std::move(on_interrupt)] { Watch(call); });
}

Interrupt::~Interrupt() {
  eventfd_write(end_fd_, 1);
  watcher_.join();
  close(signal_fd_);
  close(end_fd_);
  pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
}

void Interrupt::Watch(const std::function<void()>& on_interrupt) {
  std::array<pollfd, 2> ready = {{{signal_fd_, POLLIN, 0}, {end_fd_, POLLIN, 0}}};
  while (true) {
    if (poll(ready.data(), ready.size(), -1) < 0) {
      continue;  // EINTR
    }
    if (ready[1].revents != 0) {
      return;
    }
    signalfd_siginfo signal;
    if (read(signal_fd_, &signal, sizeof(signal)) == sizeof(signal)) {
      happened_.store(true);
      on_interrupt();
    }
  }
}

}  // namespace evenflow
