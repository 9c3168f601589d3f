#include "server/metrics.h"

#include <algorithm>
#include <cstdio>

#include <prometheus/client_metric.h>
#include <unistd.h>

#include "server/version.h"

#include "absl/strings/str_cat.h"

namespace evenflow {

namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr const char* kFinishReasonNames[] = {
    "stop_token",          "stop_string",        "length",           "interrupted", "read",
    "cancelled",           "deadline_exceeded",  "invalid_argument", "not_found",   "aborted",
    "failed_precondition", "resource_exhausted", "unavailable",      "internal"};

// A recurrent step can take less than the 1 to 300 ms where other servers' first bucket ends.
std::vector<double> LatencyBounds() {
  return {50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3,
          0.1,   0.25,   0.5,    1,      2.5,  5,      10,   30,    60};
}

// A stream may go on for hours.
std::vector<double> RequestBounds() {
  std::vector<double> bounds = LatencyBounds();
  bounds.insert(bounds.end(), {120, 300, 600, 1800, 3600});
  return bounds;
}

ClientMetric Number(MetricType type, double value) {
  ClientMetric metric;
  switch (type) {
    case MetricType::Counter:
      metric.counter.value = value;
      break;
    case MetricType::Gauge:
      metric.gauge.value = value;
      break;
    default:
      metric.untyped.value = value;
  }
  return metric;
}

double ResidentBytes() {
  long total = 0;
  long resident = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r"); file != nullptr) {
    if (std::fscanf(file, "%ld %ld", &total, &resident) != 2) {
      resident = 0;
    }
    std::fclose(file);
  }
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

Ending EndingOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStopToken:
      return Ending::kStopToken;
    case FinishReason::kStopString:
      return Ending::kStopString;
    case FinishReason::kLength:
      return Ending::kLength;
    case FinishReason::kInterrupted:
      return Ending::kInterrupted;
    case FinishReason::kRead:
      return Ending::kRead;
  }
  return Ending::kInternal;
}

Ending EndingOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kCancelled:
      return Ending::kCancelled;
    case absl::StatusCode::kDeadlineExceeded:
      return Ending::kDeadlineExceeded;
    case absl::StatusCode::kInvalidArgument:
      return Ending::kInvalidArgument;
    case absl::StatusCode::kNotFound:
      return Ending::kNotFound;
    case absl::StatusCode::kAborted:
      return Ending::kAborted;
    case absl::StatusCode::kFailedPrecondition:
      return Ending::kFailedPrecondition;
    case absl::StatusCode::kResourceExhausted:
      return Ending::kResourceExhausted;
    case absl::StatusCode::kUnavailable:
      return Ending::kUnavailable;
    default:
      return Ending::kInternal;
  }
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void Histogram::Observe(double value) {
  const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  counts_[static_cast<size_t>(at - bounds_.begin())].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

ClientMetric Histogram::Collect() const {
  ClientMetric metric;
  uint64_t count = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    count += counts_[i].load(std::memory_order_relaxed);
    if (i < bounds_.size()) {
      metric.histogram.bucket.push_back({count, bounds_[i]});
    }
  }
  metric.histogram.sample_count = count;
  metric.histogram.sample_sum = sum_.load(std::memory_order_relaxed);
  return metric;
}

int64_t RecentMax::Minute(SteadyTime now) {
  return std::chrono::duration_cast<std::chrono::minutes>(now.time_since_epoch()).count();
}

void RecentMax::Observe(double value, SteadyTime now) {
  const int64_t minute = Minute(now);
  if (const int64_t last = minute_.load(); minute != last) {
    previous_.store(minute == last + 1 ? current_.load() : 0);
    current_.store(0);
    minute_.store(minute);
  }
  // A NaN is shown, not hidden behind the finite values.
  if (!(value <= current_.load())) {
    current_.store(value);
  }
}

double RecentMax::Value(SteadyTime now) const {
  const int64_t age = Minute(now) - minute_.load();
  const double current = age <= 1 ? current_.load() : 0;
  const double previous = age <= 0 ? previous_.load() : 0;
  return previous > current ? previous : current;
}

Metrics::LayerHealth::LayerHealth(const StatePlane& of)
    : plane(of), norm({0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 1e5, 1e6}) {}

Metrics::Metrics(std::string model_name, const std::vector<StatePlane>& planes)
    : time_to_first_token(LatencyBounds()),
      inter_token_latency(LatencyBounds()),
      request_latency(RequestBounds()),
      queue_time(LatencyBounds()),
      model_name_(std::move(model_name)),
      step_duration_(LatencyBounds()),
      step_rows_({1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}) {
  for (const StatePlane& plane : planes) {
    layers_.push_back(std::make_unique<LayerHealth>(plane));
  }
}

EngineObserver Metrics::Observer() {
  EngineObserver observer;
  observer.on_step = [this](const EngineObserver::Step& step) {
    step_duration_.Observe(step.seconds);
    step_rows_.Observe(step.rows);
    prompt_tokens_.fetch_add(step.prompt_tokens, std::memory_order_relaxed);
  };
  observer.on_state_health = [this](int plane, const StateHealth& health) {
    OnHealth(plane, health);
  };
  return observer;
}

void Metrics::OnHealth(int plane, const StateHealth& health) {
  const auto index = static_cast<size_t>(plane);
  if (!health.committed || plane < 0 || index >= layers_.size()) {
    return;
  }
  LayerHealth& of_layer = *layers_[index];
  of_layer.norm.Observe(health.norm);
  of_layer.max_abs.Observe(health.max_abs, std::chrono::steady_clock::now());
  of_layer.non_finite.fetch_add(health.non_finite, std::memory_order_relaxed);
}

void Metrics::CountEnd(FinishReason reason) {
  Count(EndingOf(reason));
}

void Metrics::CountEnd(const absl::Status& status) {
  Count(EndingOf(status.code()));
}

ClientMetric Metrics::Labelled(ClientMetric metric, std::vector<ClientMetric::Label> labels) const {
  metric.label = std::move(labels);
  metric.label.insert(metric.label.begin(), {"model_name", model_name_});
  return metric;
}

void Metrics::CollectRequests(std::vector<MetricFamily>* families) const {
  const std::tuple<const char*, const char*, const Histogram*> histograms[] = {
      {"evenflow_time_to_first_token_seconds", "Arrival of a request to its first token.",
       &time_to_first_token},
      {"evenflow_inter_token_latency_seconds", "Time between two tokens of a response.",
       &inter_token_latency},
      {"evenflow_e2e_request_latency_seconds", "Arrival of a request to its end.",
       &request_latency},
      {"evenflow_request_queue_time_seconds",
       "Arrival of a request to the step that read its first token.", &queue_time},
      {"evenflow_step_duration_seconds", "One step of the engine, from planning to delivery.",
       &step_duration_},
      {"evenflow_step_rows", "Sessions advanced in one step.", &step_rows_},
  };
  for (const auto& [name, help, histogram] : histograms) {
    families->push_back({name, help, MetricType::Histogram, {Labelled(histogram->Collect())}});
  }
  families->push_back(
      {"evenflow_prompt_tokens_total",
       "Prompt tokens read.",
       MetricType::Counter,
       {Labelled(Number(MetricType::Counter, static_cast<double>(prompt_tokens_.load())))}});
  families->push_back(
      {"evenflow_generation_tokens_total",
       "Tokens generated.",
       MetricType::Counter,
       {Labelled(Number(MetricType::Counter, static_cast<double>(generated_tokens_.load())))}});
  MetricFamily finished{"evenflow_requests_finished_total",
                        "Requests and appends that ended, by finish reason or status code.",
                        MetricType::Counter,
                        {}};
  for (size_t i = 0; i < endings_.size(); ++i) {
    finished.metric.push_back(
        Labelled(Number(MetricType::Counter, static_cast<double>(endings_[i].load())),
                 {{"reason", kFinishReasonNames[i]}}));
  }
  families->push_back(std::move(finished));
}

void Metrics::CollectGauges(std::vector<MetricFamily>* families) const {
  const EngineGauges gauges = gauges_ ? gauges_() : EngineGauges();
  const std::tuple<const char*, const char*, MetricType, double> numbers[] = {
      {"evenflow_requests_running", "Requests that hold a state slot.", MetricType::Gauge,
       gauges.running},
      {"evenflow_requests_waiting", "Requests that wait for a state slot.", MetricType::Gauge,
       gauges.waiting},
      // The name says how many there are in all; Prometheus' rules keep "_total" from gauges.
      {"evenflow_state_slots_total", "State slots of this server.", MetricType::Untyped,
       gauges.slots_total},
      {"evenflow_state_slots_used", "State slots held by running requests and idle sessions.",
       MetricType::Gauge, gauges.slots_used},
      {"evenflow_host_slots_total", "Slots in host memory for states of idle sessions.",
       MetricType::Untyped, gauges.host_slots_total},
      {"evenflow_host_slots_used", "Slots in host memory that hold a state.", MetricType::Gauge,
       gauges.host_slots_used},
      {"evenflow_sessions", "Sessions, those without a state slot included.", MetricType::Gauge,
       gauges.sessions},
      {"evenflow_sessions_quarantined", "Sessions whose state had non-finite values.",
       MetricType::Gauge, gauges.quarantined},
      {"process_resident_memory_bytes", "Resident memory of this process.", MetricType::Gauge,
       ResidentBytes()},
  };
  for (const auto& [name, help, type, value] : numbers) {
    families->push_back({name, help, type, {Labelled(Number(type, value))}});
  }
  families->push_back({"evenflow_state_moves_total",
                       "States moved between slots of the device and host memory.",
                       MetricType::Counter,
                       {Labelled(Number(MetricType::Counter, static_cast<double>(gauges.moved_out)),
                                 {{"to", "host"}}),
                        Labelled(Number(MetricType::Counter, static_cast<double>(gauges.moved_in)),
                                 {{"to", "device"}})}});
  families->push_back({"evenflow_build_info",
                       "Always 1; the version is a label.",
                       MetricType::Gauge,
                       {Labelled(Number(MetricType::Gauge, 1), {{"version", kVersion}})}});
}

void Metrics::CollectHealth(std::vector<MetricFamily>* families) const {
  MetricFamily norm{"evenflow_state_norm",
                    "Frobenius norm of a layer's state at its commits.",
                    MetricType::Histogram,
                    {}};
  MetricFamily max_abs{"evenflow_state_max_abs",
                       "Largest absolute value of a layer's states in the last one to two minutes.",
                       MetricType::Gauge,
                       {}};
  MetricFamily non_finite{"evenflow_state_non_finite_total",
                          "Non-finite elements seen in committed states.",
                          MetricType::Counter,
                          {}};
  const SteadyTime now = std::chrono::steady_clock::now();
  for (const std::unique_ptr<LayerHealth>& of_layer : layers_) {
    const LayerHealth& health = *of_layer;
    const std::vector<ClientMetric::Label> labels = {{"layer", absl::StrCat(health.plane.layer)},
                                                     {"plane", health.plane.name}};
    norm.metric.push_back(Labelled(health.norm.Collect(), labels));
    max_abs.metric.push_back(
        Labelled(Number(MetricType::Gauge, health.max_abs.Value(now)), labels));
    non_finite.metric.push_back(Labelled(
        Number(MetricType::Counter, static_cast<double>(health.non_finite.load())), labels));
  }
  families->push_back(std::move(norm));
  families->push_back(std::move(max_abs));
  families->push_back(std::move(non_finite));
}

std::vector<MetricFamily> Metrics::Collect() const {
  std::vector<MetricFamily> families;
  CollectRequests(&families);
  CollectGauges(&families);
  CollectHealth(&families);
  return families;
}

}  // namespace evenflow
