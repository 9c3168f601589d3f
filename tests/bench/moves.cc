// What it takes to move a session's state to host memory and back, and what steps of others notice:
// bench_moves [cpu|cuda] [ROWS]. RetNet-1.3B with random weights on CUDA, a small one on the CPU.
// First slots alone are copied through the backend. Then ROWS streams run on an engine that has one
// slot more than they need, and two other sessions take turns on it, a token at a time: every turn
// moves one state out and one in. Prints a line for each part.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/model/model.h"
#include "engine/model/random_checkpoint.h"
#include "engine/mutex.h"

#include "absl/base/thread_annotations.h"
#include "tests/engine/model/temp_directory.h"

namespace evenflow {
namespace {

using Seconds = std::chrono::duration<double>;

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0
                        : values[static_cast<size_t>(static_cast<double>(values.size() - 1) * q)];
}

template <class T>
T OrDie(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "%s\n", std::string(value.status().message()).c_str());
    std::exit(1);
  }
  return *std::move(value);
}

// Durations of the steps in which `rows` sessions decode and nothing else happens.
class StepTimes {
 public:
  explicit StepTimes(int rows) : rows_(rows) {}

  void Add(const EngineObserver::Step& step) {
    MutexLock lock(mutex_);
    if (step.decode_tokens == rows_ && step.prompt_tokens == 0) {
      seconds_.push_back(step.seconds);
    }
  }

  std::vector<double> Take() {
    MutexLock lock(mutex_);
    return std::exchange(seconds_, {});
  }

 private:
  const int rows_;
  Mutex mutex_;
  std::vector<double> seconds_ ABSL_GUARDED_BY(mutex_);
};

void PrintSteps(const char* what, const std::vector<double>& steps) {
  std::printf("%-28s %6zu steps, median %.3f ms, 99th percentile %.3f ms, longest %.3f ms\n", what,
              steps.size(), Quantile(steps, 0.5) * 1e3, Quantile(steps, 0.99) * 1e3,
              Quantile(steps, 1) * 1e3);
}

// Copies of a slot, one after the other, with nothing else on the device.
void TimeCopies(Backend& backend, size_t bytes) {
  constexpr int kSlots = 4;
  void* const base = backend.Allocate(kSlots * bytes);
  const auto asked = std::chrono::steady_clock::now();
  void* const host = backend.AllocateHost(bytes);
  if (base == nullptr || host == nullptr) {
    std::exit(1);
  }
  std::printf("%-28s %.1f ms\n", "host memory for it",
              Seconds(std::chrono::steady_clock::now() - asked).count() * 1e3);
  const Slots slots{static_cast<std::byte*>(base), bytes};
  for (const bool out : {true, false}) {
    std::vector<double> times;
    for (int i = 0; i < 20; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      const SlotCopy copy = out ? backend.SaveSlot(slots, i % kSlots, host)
                                : backend.LoadSlot(slots, i % kSlots, host);
      while (!backend.CopyDone(copy)) {
      }
      times.push_back(Seconds(std::chrono::steady_clock::now() - begin).count());
    }
    std::printf("%-28s %zu bytes, median %.2f ms, %.1f GB/s\n",
                out ? "a slot to host memory" : "a slot from host memory", bytes,
                Quantile(times, 0.5) * 1e3,
                static_cast<double>(bytes) / Quantile(times, 0.5) * 1e-9);
  }
  backend.FreeHost(host);
  backend.Free(base);
}

std::shared_ptr<Outbox> Ask(Engine& engine, SessionLease& lease, int64_t tokens) {
  EngineRequest request;
  request.prompt = lease.position() == 0 ? std::vector<int32_t>{1} : std::vector<int32_t>{};
  request.max_tokens = tokens;
  request.sampling.temperature = 0;
  return OrDie(engine.Submit(lease, request));
}

// Reads what streams have to say until `end`.
void Read(const std::vector<std::shared_ptr<Outbox>>& outboxes, SteadyTime end) {
  TokenEvents events;
  std::optional<FinishEvent> finish;
  while (std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    for (const auto& outbox : outboxes) {
      outbox->Take(&events, &finish);
    }
  }
}

// Seconds from asking for a token to having it.
double Turn(Engine& engine, SessionLease& lease) {
  const auto begin = std::chrono::steady_clock::now();
  const auto outbox = Ask(engine, lease, 1);
  TokenEvents events;
  std::optional<FinishEvent> finish;
  while (!finish) {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    outbox->Take(&events, &finish);
  }
  if (!finish->status.ok()) {
    std::exit(1);
  }
  return Seconds(std::chrono::steady_clock::now() - begin).count();
}

// A session that comes for a token again and again, alone on its slot or in turns with another.
void TakeTurns(const char* what, Engine& engine, std::vector<SessionLease>& leases, size_t count,
               StepTimes& times, const std::vector<std::shared_ptr<Outbox>>& streams) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(3);
  std::vector<double> turns;
  std::thread reader([&] { Read(streams, end); });
  for (size_t i = 0; std::chrono::steady_clock::now() < end; ++i) {
    turns.push_back(Turn(engine, leases[i % count]));
  }
  reader.join();
  PrintSteps(what, times.Take());
  std::printf(
      "%-28s %6zu turns, median %.3f ms, 99th percentile %.3f ms; %lld states moved out so "
      "far\n",
      "", turns.size(), Quantile(turns, 0.5) * 1e3, Quantile(turns, 0.99) * 1e3,
      static_cast<long long>(engine.Gauges().moved_out));
}

int Main(const std::string& device, int rows) {
  std::string error;
  const bool cuda = device == "cuda";
  const std::unique_ptr<Backend> backend =
      cuda ? CreateCudaBackend({}, &error) : CreateCpuBackend({});
  if (backend == nullptr) {
    std::fprintf(stderr, "%s\n", error.c_str());
    return 1;
  }
  const TempDirectory directory;
  RandomModel size;
  size.hidden_size = cuda ? 2048 : 256;
  size.heads = cuda ? 8 : 4;
  size.layers = cuda ? 24 : 4;
  if (const absl::Status written = WriteRandomCheckpoint(directory.path(), RandomConfig(size), 1);
      !written.ok()) {
    std::fprintf(stderr, "%s\n", std::string(written.message()).c_str());
    return 1;
  }
  ModelOptions model_options;
  model_options.max_step_logits = rows + 1;
  auto model = OrDie(Model::Load(directory.path(), model_options, *backend));
  std::printf("%s, %d streams\n", backend->Describe().c_str(), rows);
  TimeCopies(*backend, model->slot_bytes());

  EngineOptions options;
  options.max_sessions = rows + 1;
  options.max_rows = rows + 1;
  options.max_checkpoints = 1;
  options.host_memory_bytes = 8 * static_cast<int64_t>(model->slot_bytes());
  StepTimes times(rows);
  EngineObserver observer;
  observer.on_step = [&times](const EngineObserver::Step& step) { times.Add(step); };
  auto engine = OrDie(Engine::Create(options, std::move(model), *backend, observer));
  std::vector<SessionLease> leases, others;
  std::vector<std::shared_ptr<Outbox>> streams;
  for (int i = 0; i < rows; ++i) {
    leases.push_back(OrDie(engine->Attach("")));
    streams.push_back(Ask(*engine, leases.back(), INT64_MAX));
  }
  for (int i = 0; i < 2; ++i) {
    others.push_back(OrDie(engine->Attach("")));
  }
  Read(streams, std::chrono::steady_clock::now() + std::chrono::seconds(1));
  times.Take();
  Read(streams, std::chrono::steady_clock::now() + std::chrono::seconds(3));
  PrintSteps("nothing else", times.Take());
  TakeTurns("one session's turns", *engine, others, 1, times, streams);
  TakeTurns("two in turns, not yet moved", *engine, others, 2, times, streams);
  TakeTurns("two in turns", *engine, others, 2, times, streams);
  for (const auto& stream : streams) {
    stream->Cancel(absl::CancelledError("enough"));
  }
  return 0;
}

}  // namespace
}  // namespace evenflow

int main(int argc, char** argv) {
  return evenflow::Main(argc > 1 ? argv[1] : "cpu", argc > 2 ? std::atoi(argv[2]) : 16);
}
