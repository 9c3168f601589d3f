#include "kernels/cpu/worker_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <pthread.h>
#include <sched.h>

namespace evenflow {
namespace {

// How long a thread watches for work, or for the last task of others, before it sleeps. Longer than
// the gaps between the operations of a step, shorter than anybody would notice on a power meter.
constexpr std::chrono::microseconds kSpin{40};

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until done() or until kSpin has passed; returns done().
template <class Done>
bool SpinUntil(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) {
        return true;
      }
      Pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

// The processors this process may use, one for each physical core where sysfs tells siblings apart.
std::vector<int> UsableCores() {
  std::vector<int> cores;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return cores;
  }
  std::set<std::string> seen;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) {
      continue;
    }
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                       "/topology/thread_siblings_list");
    std::string siblings;
    if (!std::getline(file, siblings) || seen.insert(siblings).second) {
      cores.push_back(cpu);
    }
  }
  return cores;
}

void PinTo(std::thread& thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  // A refusal costs speed, not correctness.
  pthread_setaffinity_np(thread.native_handle(), sizeof(set), &set);
}

}  // namespace

// Tasks are claimed on one word that holds the loop's epoch and the number of tasks not yet
// claimed, so that a worker who comes late cannot touch a later loop with what it knows of an
// earlier one: its compare-and-swap fails. Between loops the number is 0 and nothing can be
// claimed.
struct WorkerPool::Impl {
  using Function = void (*)(const void* context, int task);

  std::vector<std::thread> workers;

  // Written before `claim`; what was read of them holds if a claim made after it succeeds.
  std::atomic<Function> run{nullptr};
  std::atomic<const void*> context{nullptr};
  std::atomic<uint32_t> tasks{0};

  alignas(64) std::atomic<uint64_t> claim{0};  // epoch << 32 | tasks not yet claimed
  alignas(64) std::atomic<uint32_t> finished{0};
  alignas(64) std::atomic<uint32_t> epoch{0};  // what idle workers sleep on
  std::atomic<bool> stop{false};

  // Takes tasks of the current loop until there are none.
  void Work() {
    uint64_t seen = claim.load(std::memory_order_acquire);
    while (true) {
      const auto left = static_cast<uint32_t>(seen);
      if (left == 0) {
        return;
      }
      const uint32_t all = tasks.load(std::memory_order_relaxed);
      const Function function = run.load(std::memory_order_relaxed);
      const void* const argument = context.load(std::memory_order_relaxed);
      if (!claim.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
        continue;
      }
      function(argument, static_cast<int>(all - left));
      if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 == all) {
        finished.notify_one();
      }
      seen = claim.load(std::memory_order_acquire);
    }
  }

  void Serve() {
    uint32_t known = 0;
    while (true) {
      const auto changed = [&] { return epoch.load(std::memory_order_acquire) != known; };
      if (!SpinUntil(changed)) {
        epoch.wait(known, std::memory_order_acquire);
      }
      known = epoch.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_acquire)) {
        return;
      }
      Work();
    }
  }

  void Announce() {
    epoch.fetch_add(1, std::memory_order_release);
    epoch.notify_all();
  }
};

WorkerPool::WorkerPool(int threads) : impl_(std::make_unique<Impl>()) {
  const std::vector<int> cores = UsableCores();
  if (threads <= 0) {
    threads = std::max(1, static_cast<int>(cores.size()));
  }
  const bool pin = static_cast<size_t>(threads) <= cores.size();
  for (int i = 1; i < threads; ++i) {
    impl_->workers.emplace_back([impl = impl_.get()] { impl->Serve(); });
    if (pin) {
      PinTo(impl_->workers.back(), cores[static_cast<size_t>(i)]);
    }
  }
}

WorkerPool::~WorkerPool() {
  impl_->stop.store(true, std::memory_order_release);
  impl_->Announce();
  for (std::thread& worker : impl_->workers) {
    worker.join();
  }
}

int WorkerPool::threads() const {
  return static_cast<int>(impl_->workers.size()) + 1;
}

void WorkerPool::Loop(int tasks, void (*run)(const void* context, int task), const void* context) {
  if (tasks <= 1 || impl_->workers.empty()) {
    for (int i = 0; i < tasks; ++i) {
      run(context, i);
    }
    return;
  }
  Impl& impl = *impl_;
  const auto all = static_cast<uint32_t>(tasks);
  impl.finished.store(0, std::memory_order_relaxed);
  impl.run.store(run, std::memory_order_relaxed);
  impl.context.store(context, std::memory_order_relaxed);
  impl.tasks.store(all, std::memory_order_relaxed);
  const uint64_t next = (impl.claim.load(std::memory_order_relaxed) >> 32) + 1;
  impl.claim.store(next << 32 | all, std::memory_order_release);
  impl.Announce();
  impl.Work();
  const auto done = [&] { return impl.finished.load(std::memory_order_acquire) == all; };
  while (!SpinUntil(done)) {
    const uint32_t now = impl.finished.load(std::memory_order_acquire);
    if (now != all) {
      impl.finished.wait(now, std::memory_order_acquire);
    }
  }
}

}  // namespace evenflow
