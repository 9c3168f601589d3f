#include "server/bench_step.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/model/model.h"
#include "engine/model/random_checkpoint.h"
#include "engine/model/safetensors.h"
#include "kernels/backend.h"
#include "kernels/bandwidth.h"
#include "server/log.h"

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

namespace evenflow {

namespace {

// Steps whose times are not counted: caches and threads warm up.
constexpr int kWarmUpSteps = 5;
constexpr uint64_t kWeightSeed = 1;

// Where the model lies; a temporary directory goes with this object.
struct Checkpoint {
  std::string directory;
  bool temporary = false;

  Checkpoint() = default;
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  ~Checkpoint() {
    std::error_code ignored;
    if (temporary) {
      std::filesystem::remove_all(directory, ignored);
    }
  }
};

absl::Status Prepare(const BenchStepFlags& flags, Checkpoint* checkpoint) {
  checkpoint->directory = flags.directory;
  if (flags.random.empty()) {
    return absl::OkStatus();
  }
  if (checkpoint->directory.empty()) {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "evenflow-bench-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) {
      return absl::UnavailableError("cannot make a temporary directory for --random: " + pattern);
    }
    checkpoint->directory = pattern;
    checkpoint->temporary = true;
  }
  RandomModel size;
  if (flags.random == "retnet-tiny") {
    size.hidden_size = 64;
    size.layers = 2;
    size.vocab_size = 256;
  }
  return WriteRandomCheckpoint(checkpoint->directory, RandomConfig(size), kWeightSeed);
}

// Bytes of the weights that a decode step reads: all but an embedding table that is not the output
// layer too, of which it reads one row a session.
absl::StatusOr<int64_t> WeightBytes(const std::string& directory) {
  const absl::StatusOr<Safetensors> files = Safetensors::Open(directory);
  if (!files.ok()) {
    return files.status();
  }
  const bool untied = files->tensors().count("lm_head.weight") > 0;
  int64_t bytes = 0;
  for (const auto& [name, tensor] : files->tensors()) {
    if (!untied || name != "model.embeddings.weight") {
      bytes += tensor.elements * (tensor.dtype == "BF16" ? 2 : 4);
    }
  }
  return bytes;
}

// Times of the pure decode steps with all rows, from the engine thread.
class StepTimes {
 public:
  explicit StepTimes(int rows) : rows_(rows) {}

  void Add(const EngineObserver::Step& step) {
    absl::MutexLock lock(&mutex_);
    if (step.rows == rows_ && step.decode_tokens == rows_ && step.prompt_tokens == 0) {
      seconds_.push_back(step.seconds);
    }
  }

  // After the warm-up, ascending.
  std::vector<double> Sorted() const {
    absl::MutexLock lock(&mutex_);
    std::vector<double> sorted(
        seconds_.begin() + std::min<std::ptrdiff_t>(kWarmUpSteps, std::ssize(seconds_)),
        seconds_.end());
    std::sort(sorted.begin(), sorted.end());
    return sorted;
  }

 private:
  const int rows_;
  mutable absl::Mutex mutex_;
  std::vector<double> seconds_ ABSL_GUARDED_BY(mutex_);
};

EngineOptions OptionsFor(int rows, int tokens) {
  EngineOptions options;
  options.max_sessions = rows;
  options.max_rows = std::max(2, rows);
  options.step_tokens = std::max(256, rows + 128);
  options.outbox_tokens = tokens + 1;
  return options;
}

// `rows` streams that decode together for `tokens` steps and more.
absl::Status Decode(Engine& engine, int rows, int tokens) {
  std::vector<SessionLease> leases;
  std::vector<std::shared_ptr<Outbox>> outboxes;
  for (int row = 0; row < rows; ++row) {
    absl::StatusOr<SessionLease> lease = engine.Attach("");
    if (!lease.ok()) {
      return lease.status();
    }
    leases.push_back(*std::move(lease));
    EngineRequest request;
    request.prompt = {1 + row % (engine.model().info().vocab_size - 1)};
    request.sampling.temperature = 0;
    request.max_tokens = tokens;
    absl::StatusOr<std::shared_ptr<Outbox>> outbox =
        engine.Submit(leases.back(), std::move(request));
    if (!outbox.ok()) {
      return outbox.status();
    }
    outboxes.push_back(*std::move(outbox));
  }
  std::vector<TokenEvent> events;
  for (const auto& outbox : outboxes) {
    std::optional<FinishEvent> finish;
    while (!finish.has_value()) {
      absl::SleepFor(absl::Milliseconds(20));
      outbox->Take(&events, &finish);
    }
    if (!finish->status.ok()) {
      return finish->status;
    }
  }
  return absl::OkStatus();
}

struct Result {
  std::string model;
  int rows = 0;
  double median_s = 0, p99_s = 0;
  int64_t weight_bytes = 0, state_bytes = 0;
  double bandwidth = 0;  // bytes per second

  double fraction() const {
    return static_cast<double>(weight_bytes + state_bytes) / median_s / bandwidth;
  }
};

void Print(const Result& result, bool json) {
  std::printf(
      json
          ? "{\"model\": \"%s\", \"rows\": %d, \"step_ms_median\": %.4f, \"step_ms_p99\": %.4f, "
            "\"weight_bytes\": %lld, \"state_bytes\": %lld, \"bytes_per_second\": %.0f, "
            "\"read_bandwidth\": %.0f, \"fraction_of_bandwidth\": %.4f}\n"
          : "model                  %s\nrows                   %d\nstep, median           %.3f ms\n"
            "step, 99th percentile  %.3f ms\nweights read           %lld bytes\n"
            "states read            %lld bytes\nrate                   %.0f bytes/s\n"
            "read bandwidth         %.0f bytes/s\nfraction               %.3f\n",
      result.model.c_str(), result.rows, result.median_s * 1e3, result.p99_s * 1e3,
      static_cast<long long>(result.weight_bytes), static_cast<long long>(result.state_bytes),
      static_cast<double>(result.weight_bytes + result.state_bytes) / result.median_s,
      result.bandwidth, result.fraction());
}

}  // namespace

absl::Status RunBenchStep(const BenchStepFlags& flags) {
  Checkpoint checkpoint;
  if (absl::Status status = Prepare(flags, &checkpoint); !status.ok()) {
    return status;
  }
  const absl::StatusOr<int64_t> weight_bytes = WeightBytes(checkpoint.directory);
  if (!weight_bytes.ok()) {
    return weight_bytes.status();
  }
  const int tokens = flags.steps + kWarmUpSteps + flags.rows;
  const EngineOptions options = OptionsFor(flags.rows, tokens);
  const std::unique_ptr<Backend> backend = CreateCpuBackend({.threads = flags.threads});
  ModelOptions model_options;
  model_options.max_step_tokens = options.step_tokens;
  model_options.max_step_logits = options.max_rows;
  absl::StatusOr<std::unique_ptr<Model>> model =
      Model::Load(checkpoint.directory, model_options, *backend);
  if (!model.ok()) {
    return model.status();
  }
  Result result{.model = (*model)->info().name, .rows = flags.rows, .weight_bytes = *weight_bytes};
  result.state_bytes = flags.rows * static_cast<int64_t>((*model)->slot_bytes());
  StepTimes times(flags.rows);
  EngineObserver observer;
  observer.on_step = [&times](const EngineObserver::Step& step) { times.Add(step); };
  absl::StatusOr<std::unique_ptr<Engine>> engine =
      Engine::Create(options, *std::move(model), *backend, std::move(observer));
  if (!engine.ok()) {
    return engine.status();
  }
  if (absl::Status status = Decode(**engine, flags.rows, tokens); !status.ok()) {
    return status;
  }
  const std::vector<double> seconds = times.Sorted();
  if (seconds.empty()) {
    return absl::InternalError("no step had all rows; give more --steps");
  }
  result.median_s = seconds[seconds.size() / 2];
  result.p99_s = seconds[seconds.size() * 99 / 100];
  result.bandwidth = MeasureReadBandwidth(flags.threads);
  if (!(result.bandwidth > 0)) {
    return absl::ResourceExhaustedError("no memory to measure the read bandwidth");
  }
  Print(result, flags.json);
  return absl::OkStatus();
}

}  // namespace evenflow
