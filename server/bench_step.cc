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
  } else if (flags.random == "gated-deltanet-350m") {
    size.model_type = "gated_deltanet";
  } else if (flags.random == "retnet-1.3b") {
    size.hidden_size = 2048;
    size.heads = 8;
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

// Times of steps, from the engine thread.
class StepTimes {
 public:
  explicit StepTimes(int rows) : rows_(rows) {}

  void Add(const EngineObserver::Step& step) {
    absl::MutexLock lock(&mutex_);
    if (step.decode_tokens == 0) {
      prompt_seconds_ += step.seconds;
    } else if (step.decode_tokens == rows_ && step.prompt_tokens == 0) {
      decode_seconds_.push_back(step.seconds);
    }
  }

  // Of each step in which all rows decode and nothing else happens, without those of the warm-up.
  std::vector<double> TakeDecode() {
    absl::MutexLock lock(&mutex_);
    std::vector<double> taken;
    taken.swap(decode_seconds_);
    taken.erase(taken.begin(),
                taken.begin() + std::min<std::ptrdiff_t>(kWarmUpSteps, std::ssize(taken)));
    return taken;
  }

  // Of all steps that only read prompts.
  double TakePrompt() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(prompt_seconds_, 0.0);
  }

 private:
  const int rows_;
  absl::Mutex mutex_;
  std::vector<double> decode_seconds_ ABSL_GUARDED_BY(mutex_);
  double prompt_seconds_ ABSL_GUARDED_BY(mutex_) = 0;
};

EngineOptions OptionsFor(const BenchStepFlags& flags) {
  const int rows = flags.rows;
  EngineOptions options;
  options.max_sessions = rows;
  options.max_rows = std::max(2, rows);
  options.step_tokens = std::max(flags.step_tokens, rows + 128);
  options.outbox_tokens = kWarmUpSteps + rows + flags.steps + 1;
  return options;
}

// A new session for each request; returns when all are finished.
absl::Status Run(Engine& engine, const std::vector<EngineRequest>& requests) {
  std::vector<SessionLease> leases;
  std::vector<std::shared_ptr<Outbox>> outboxes;
  for (const EngineRequest& request : requests) {
    absl::StatusOr<SessionLease> lease = engine.Attach("");
    if (!lease.ok()) {
      return lease.status();
    }
    leases.push_back(*std::move(lease));
    absl::StatusOr<std::shared_ptr<Outbox>> outbox = engine.Submit(leases.back(), request);
    if (!outbox.ok()) {
      return outbox.status();
    }
    outboxes.push_back(*std::move(outbox));
  }
  TokenEvents events;
  for (const auto& outbox : outboxes) {
    std::optional<FinishEvent> finish;
    while (!finish.has_value()) {
      absl::SleepFor(absl::Milliseconds(5));
      outbox->Take(&events, &finish);
    }
    if (!finish->status.ok()) {
      return finish->status;
    }
  }
  return absl::OkStatus();
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(static_cast<double>(values.size() - 1) * q)];
}

double Median(const std::vector<double>& values) {
  return Quantile(values, 0.5);
}

struct Result {
  std::string model, device;
  int rows = 0, layers = 0;
  int launches = 0;  // of a step; 0: not known
  int64_t weight_bytes = 0, state_bytes = 0;
  std::vector<double> steps;  // seconds, of all rounds
  // One a round: what a step takes and what the memory delivers differ from minute to minute on a
  // machine that others use too, so they are compared within a round.
  std::vector<double> bandwidths;  // bytes per second
  std::vector<double> fractions;
  std::vector<double> prompt_tokens;  // seconds a token
  std::vector<double> speedups;       // of a prompt's token over a decoded one
};

constexpr int kRounds = 10;

// Sessions that commit in different steps, as those of clients that come and go do: the prompts'
// lengths go through all positions of a block.
std::vector<EngineRequest> DecodeRequests(const BenchStepFlags& flags, const Window& window) {
  std::vector<EngineRequest> requests(static_cast<size_t>(flags.rows));
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt.assign(1 + i % static_cast<size_t>(window.commit), 1);
    requests[i].sampling.temperature = 0;
    requests[i].max_tokens = (flags.steps + kRounds - 1) / kRounds + kWarmUpSteps + flags.rows;
  }
  return requests;
}

absl::Status RunRound(const BenchStepFlags& flags, Engine& engine, StepTimes& times,
                      Backend& backend, Result* result) {
  const double before = backend.MeasureReadBandwidth();
  if (absl::Status status = Run(engine, DecodeRequests(flags, engine.model().window()));
      !status.ok()) {
    return status;
  }
  const std::vector<double> steps = times.TakeDecode();
  times.TakePrompt();
  const double bytes_per_second = std::max(before, backend.MeasureReadBandwidth());
  if (steps.empty()) {
    return absl::OkStatus();  // the first stream ended before the last one began
  }
  if (!(bytes_per_second > 0)) {
    return absl::ResourceExhaustedError("no memory to measure the read bandwidth");
  }
  const auto bytes = static_cast<double>(result->weight_bytes + result->state_bytes);
  result->steps.insert(result->steps.end(), steps.begin(), steps.end());
  result->bandwidths.push_back(bytes_per_second);
  result->fractions.push_back(bytes / Median(steps) / bytes_per_second);
  if (flags.prompt_tokens > 0) {
    EngineRequest read;
    read.generate = false;
    for (int i = 0; i < flags.prompt_tokens; ++i) {
      read.prompt.push_back(1 + i % (engine.model().info().vocab_size - 1));
    }
    if (absl::Status status = Run(engine, {read}); !status.ok()) {
      return status;
    }
    result->prompt_tokens.push_back(times.TakePrompt() / flags.prompt_tokens);
    result->speedups.push_back(Median(steps) / flags.rows / result->prompt_tokens.back());
  }
  return absl::OkStatus();
}

void Print(const Result& result, bool json) {
  const double median = Median(result.steps);
  std::printf(json ? "{\"model\": \"%s\", \"device\": \"%s\", \"rows\": %d, \"step_ms_median\": "
                     "%.4f, \"step_ms_p99\": %.4f, "
                     "\"weight_bytes\": %lld, \"state_bytes\": %lld, \"bytes_per_second\": %.0f, "
                     "\"read_bandwidth\": %.0f, \"fraction_of_bandwidth\": %.4f, "
                     "\"fraction_of_bandwidth_best\": %.4f"
                   : "model                  %s\ndevice                 %s\nrows                   "
                     "%d\nstep, median           %.3f ms\n"
                     "step, 99th percentile  %.3f ms\nweights read           %lld bytes\n"
                     "states read            %lld bytes\nrate                   %.0f bytes/s\n"
                     "read bandwidth         %.0f bytes/s\nfraction               %.3f\n"
                     "fraction, best round   %.3f\n",
              result.model.c_str(), result.device.c_str(), result.rows, median * 1e3,
              Quantile(result.steps, 0.99) * 1e3, static_cast<long long>(result.weight_bytes),
              static_cast<long long>(result.state_bytes),
              static_cast<double>(result.weight_bytes + result.state_bytes) / median,
              Median(result.bandwidths), Median(result.fractions), Quantile(result.fractions, 1));
  if (!result.prompt_tokens.empty()) {
    std::printf(json ? ", \"prompt_token_ms\": %.4f, \"prompt_speedup\": %.3f"
                     : "prompt, per token      %.4f ms\nfaster than decoding   %.2f times\n",
                Median(result.prompt_tokens) * 1e3, Median(result.speedups));
  }
  if (result.launches > 0) {
    std::printf(
        json ? ", \"launches\": %d, \"layers\": %d" : "launches a step        %d, in %d layers\n",
        result.launches, result.layers);
  }
  std::printf("%s", json ? "}\n" : "");
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
  const EngineOptions options = OptionsFor(flags);
  const absl::StatusOr<std::unique_ptr<Backend>> made = MakeBackend(flags.device);
  if (!made.ok()) {
    return made.status();
  }
  Backend& backend = **made;
  ModelOptions model_options;
  model_options.state_dtype = flags.state_dtype;
  model_options.max_step_tokens = options.step_tokens;
  model_options.max_step_logits = options.max_rows;
  absl::StatusOr<std::unique_ptr<Model>> model =
      Model::Load(checkpoint.directory, model_options, backend);
  if (!model.ok()) {
    return model.status();
  }
  Result result;
  result.model = (*model)->info().name;
  result.device = backend.Describe();
  result.rows = flags.rows;
  result.layers = static_cast<int>((*model)->info().memories.size());
  result.weight_bytes = *weight_bytes;
  result.state_bytes = flags.rows * static_cast<int64_t>((*model)->slot_bytes());
  StepTimes times(flags.rows);
  EngineObserver observer;
  observer.on_step = [&times](const EngineObserver::Step& step) { times.Add(step); };
  absl::StatusOr<std::unique_ptr<Engine>> engine =
      Engine::Create(options, *std::move(model), backend, std::move(observer));
  if (!engine.ok()) {
    return engine.status();
  }
  for (int round = 0; round < kRounds; ++round) {
    if (absl::Status status = RunRound(flags, **engine, times, backend, &result); !status.ok()) {
      return status;
    }
  }
  if (result.steps.empty()) {
    return absl::InternalError("no step had all rows; give more --steps");
  }
  result.launches = backend.launches();
  Print(result, flags.json);
  return absl::OkStatus();
}

}  // namespace evenflow
