// Ctrl-C and SIGTERM as an ordinary call. One object at a time, made in main's thread before any
// other thread starts (threads inherit the blocked signals).
#ifndef EVENFLOW_CLIENTS_CLI_INTERRUPT_H_
#define EVENFLOW_CLIENTS_CLI_INTERRUPT_H_

#include <atomic>
#include <functional>
#include <thread>

#include <signal.h>

namespace evenflow {

inline constexpr int kExitInterrupted = 130;

class Interrupt {
 public:
  // `on_interrupt` runs on a thread of this object, for the first signal and every later one.
  explicit Interrupt(std::function<void()> on_interrupt);
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool Happened() const { return happened_.load(); }

 private:
  void Watch(const std::function<void()>& on_interrupt);

  std::atomic<bool> happened_ = false;
  sigset_t mask_before_;
  int signal_fd_;
  int end_fd_;
  std::thread watcher_;
};

}  // namespace evenflow

#endif  // EVENFLOW_CLIENTS_CLI_INTERRUPT_H_
