#include "clients/cli/bench/bench_serve.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <iostream>
#include <memory>
#include <random>
#include <thread>

#include <unistd.h>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "clients/cli/bench/arrivals.h"
#include "clients/cli/interrupt.h"
#include "evenflow/v1/models.grpc.pb.h"

namespace evenflow {
namespace {

constexpr char kFooter[] = R"(What is measured, by this client's steady clock:
  ttft   time to first token: from sending a request to its first message with tokens
  tpot   time per output token, the first left out: (e2el - ttft) / (output tokens - 1), per request
  itl    inter-token latency: each gap between two messages with tokens, of all requests
  e2el   end-to-end latency: from sending a request to its last tokens
  goodput  requests per second that completed within all limits of --goodput
Requests are sent at their times whether or not earlier ones are done (open loop). With
--max-concurrency a request may wait here first; that wait is in no figure. Failed requests are
counted by status code and are in no latency figure. The keys of --json are those of
`vllm bench serve`, times in milliseconds; std, p90, p95, p99 and max are numpy's.)";

// Draws one line on a terminal while a load runs.
class ProgressLine {
 public:
  ProgressLine(const Load& load, int64_t total) : load_(load), total_(total) {
    if (isatty(STDERR_FILENO) != 0) {
      thread_ = std::thread([this] { Draw(); });
    }
  }

  ~ProgressLine() {
    end_.Notify();
    if (thread_.joinable()) {
      thread_.join();
      std::cerr << "\r\033[K" << std::flush;
    }
  }

 private:
  void Draw() {
    while (!end_.WaitForNotificationWithTimeout(absl::Milliseconds(250))) {
      const LoadProgress at = load_.progress();
      std::cerr << absl::StrFormat("\r\033[K%d of %d requests done, %d running, %d failed",
                                   at.ended, total_, at.running, at.failed)
                << std::flush;
    }
  }

  const Load& load_;
  const int64_t total_;
  absl::Notification end_;
  std::thread thread_;
};

std::string Check(const BenchServeCommand& flags) {
  const bool all_at_once = flags.request_rate == 0 || std::isinf(flags.request_rate);
  if (std::isnan(flags.request_rate) || flags.request_rate < 0) {
    return "--request-rate must be >= 0 or inf";
  }
  if (flags.ramp_seconds > 0 && all_at_once) {
    return "--ramp needs a finite --request-rate above 0";
  }
  return "";
}

// A load that Ctrl-C can cancel, whichever is running.
struct Runner {
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  absl::Mutex mutex;
  Load* running ABSL_GUARDED_BY(mutex) = nullptr;
  bool cancelled ABSL_GUARDED_BY(mutex) = false;

  void Cancel() {
    absl::MutexLock lock(&mutex);
    cancelled = true;
    if (running != nullptr) {
      running->Cancel();
    }
  }

  void SetRunning(Load* load) {
    absl::MutexLock lock(&mutex);
    running = load;
    if (cancelled && load != nullptr) {
      load->Cancel();
    }
  }

  LoadStatistics Run(LoadPlan plan, const Objectives& objectives) {
    const auto total = static_cast<int64_t>(plan.requests.size());
    Load load(channels, std::move(plan));
    SetRunning(&load);
    const Clock::time_point start = Clock::now();
    std::vector<RequestRecord> records;
    {
      ProgressLine line(load, total);
      records = load.Run();
    }
    const Clock::time_point end = Clock::now();
    SetRunning(nullptr);
    LoadStatistics statistics = Evaluate(records, objectives);
    statistics.duration_seconds = std::chrono::duration<double>(end - start).count();
    statistics.max_concurrent_requests = load.progress().peak_running;
    return statistics;
  }
};

LoadPlan PlanLoad(const BenchServeCommand& flags, const v1::Model& model) {
  return {.send_seconds = ArrivalSeconds({.count = flags.num_prompts,
                                          .rate = flags.request_rate,
                                          .ramp_seconds = flags.ramp_seconds,
                                          .seed = flags.random_seed}),
          .requests = RandomRequests(flags, model, flags.num_prompts),
          .max_concurrency = flags.max_concurrency,
          .timeout_seconds = flags.connection.timeout_seconds};
}

int Fail(const std::string& message) {
  std::cerr << "evenflow: " << message << '\n';
  return 1;
}

}  // namespace

void AddBenchServeCommand(CLI::App& command, BenchServeCommand& flags) {
  AddConnectionFlags(command, flags.connection);
  const auto add = [&command](const std::string& flag, auto& value, const std::string& help) {
    return command.add_option(flag, value, help);
  };
  add("--num-prompts", flags.num_prompts, "Requests to send")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  add("--num-warmups", flags.num_warmups, "Requests sent before, all at once, and not measured")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  add("--input-len", flags.input_len, "Prompt tokens of each request, random ids")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  add("--output-len", flags.output_len, "Tokens that each request generates, end of text ignored")
      ->check(CLI::Range(1, 1'000'000'000))
      ->capture_default_str();
  add("--request-rate", flags.request_rate,
      "Requests per second, Poisson arrivals; 0 or inf sends all at once")
      ->capture_default_str();
  add("--ramp", flags.ramp_seconds, "Seconds in which the rate grows from 0 in a straight line")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add("--max-concurrency", flags.max_concurrency, "Requests that may run at one time")
      ->check(CLI::PositiveNumber);
  add("--connections", flags.connections, "TCP connections that requests take turns on")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  add("--random-seed", flags.random_seed, "Of arrival times, prompts and sampling")
      ->capture_default_str();
  add("--goodput", flags.goodput, "Limits in milliseconds, such as ttft:50 tpot:10 e2el:2000");
  command.add_flag("--json", flags.json, "Report as one JSON object");
  command.footer(kFooter);
}

std::vector<v1::GenerateRequest> RandomRequests(const BenchServeCommand& flags,
                                                const v1::Model& model, int64_t count) {
  std::vector<int32_t> ordinary;
  for (int32_t id = 0; id < model.vocab_size(); ++id) {
    const auto& eos = model.eos_token_ids();
    const bool special = (model.has_bos_token_id() && model.bos_token_id() == id) ||
                         std::find(eos.begin(), eos.end(), id) != eos.end();
    if (!special) {
      ordinary.push_back(id);
    }
  }
  std::mt19937_64 random(flags.random_seed);
  std::vector<v1::GenerateRequest> requests(static_cast<size_t>(count));
  for (v1::GenerateRequest& request : requests) {
    request.set_model(flags.connection.model);
    auto& ids = *request.mutable_prompt()->mutable_token_ids()->mutable_ids();
    for (int64_t i = 0; i < flags.input_len; ++i) {
      ids.Add(ordinary[random() % ordinary.size()]);
    }
    v1::GenerateOptions& options = *request.mutable_options();
    options.set_max_tokens(flags.output_len);
    options.set_ignore_eos(true);
    options.mutable_sampling()->set_seed(random());
  }
  return requests;
}

int RunBenchServe(BenchServeCommand flags) {
  Objectives objectives;
  std::string wrong = Check(flags);
  if (wrong.empty()) {
    wrong = ParseObjectives(flags.goodput, objectives);
  }
  if (!wrong.empty()) {
    return Fail(wrong);
  }
  Runner runner;
  Interrupt interrupt([&runner] { runner.Cancel(); });
  for (int i = 0; i < flags.connections; ++i) {
    runner.channels.push_back(OpenChannel(flags.connection.server, i));
  }
  grpc::ClientContext context;
  SetDeadline(flags.connection, context);
  v1::GetModelRequest get;
  get.set_model(flags.connection.model);
  v1::Model model;
  const grpc::Status status = v1::Models::NewStub(runner.channels[0])->Get(&context, get, &model);
  if (!status.ok()) {
    return Fail(Explain(status, flags.connection.server, *runner.channels[0]));
  }
  if (flags.num_warmups > 0) {
    runner.Run({.send_seconds = ArrivalSeconds({.count = flags.num_warmups}),
                .requests = RandomRequests(flags, model, flags.num_warmups),
                .max_concurrency = flags.max_concurrency,
                .timeout_seconds = flags.connection.timeout_seconds},
               {});
  }
  const LoadStatistics statistics = runner.Run(PlanLoad(flags, model), objectives);
  const LoadReport report = {flags, model, statistics, objectives.any()};
  std::cout << (flags.json ? ReportAsJson(report) + "\n" : ReportAsText(report)) << std::flush;
  if (interrupt.Happened()) {
    return kExitInterrupted;
  }
  return statistics.completed > 0 ? 0 : 1;
}

}  // namespace evenflow
