// What the server tells Prometheus: lock-free numbers that any thread may add to (the engine thread
// too), collected when somebody scrapes. Owned by Server. Thread-safe.
#ifndef EVENFLOW_SERVER_METRICS_H_
#define EVENFLOW_SERVER_METRICS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include "engine/engine.h"

namespace evenflow {

// Counts of values by upper bound (inclusive). Observe is a binary search and two atomic additions.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds);

  void Observe(double value);
  prometheus::ClientMetric Collect() const;

 private:
  const std::vector<double> bounds_;           // ascending
  std::vector<std::atomic<uint64_t>> counts_;  // [bound + 1], the last one has no bound
  std::atomic<double> sum_{0};
};

// Largest value of the last one to two minutes. One writer.
class RecentMax {
 public:
  void Observe(double value, SteadyTime now);
  double Value(SteadyTime now) const;

 private:
  static int64_t Minute(SteadyTime now);

  std::atomic<int64_t> minute_{0};
  std::atomic<double> current_{0}, previous_{0};
};

// How requests end: finish reasons, then status codes. Order of kFinishReasonNames.
enum class Ending {
  kStopToken,
  kStopString,
  kLength,
  kInterrupted,
  kRead,
  kCancelled,
  kDeadlineExceeded,
  kInvalidArgument,
  kNotFound,
  kAborted,
  kFailedPrecondition,
  kResourceExhausted,
  kUnavailable,
  kInternal,
};

class Metrics : public prometheus::Collectable {
 public:
  // `planes`: Model::state_planes.
  Metrics(std::string model_name, const std::vector<StatePlane>& planes);

  // Where the gauges come from, asked at every scrape. Set once, before the first one.
  void SetGauges(std::function<EngineGauges()> gauges) { gauges_ = std::move(gauges); }

  // Called with every token that is taken for a client, on the thread that does so. For benchmarks;
  // set before the first request.
  void SetTokenProbe(std::function<void(const TokenEvent&)> probe) { probe_ = std::move(probe); }

  // For Engine::Create. Refers to this object.
  EngineObserver Observer();

  void CountGenerated(const TokenEvent& event) {
    generated_tokens_.fetch_add(1, std::memory_order_relaxed);
    if (probe_) {
      probe_(event);
    }
  }

  void CountEnd(FinishReason reason);
  void CountEnd(const absl::Status& status);

  std::vector<prometheus::MetricFamily> Collect() const override;

  // Seconds.
  Histogram time_to_first_token, inter_token_latency, request_latency, queue_time;

 private:
  struct LayerHealth {
    explicit LayerHealth(const StatePlane& of);

    StatePlane plane;
    Histogram norm;
    RecentMax max_abs;
    std::atomic<int64_t> non_finite{0};
  };

  void OnHealth(int plane, const StateHealth& health);

  void Count(Ending ending) { endings_[static_cast<size_t>(ending)].fetch_add(1); }

  void CollectRequests(std::vector<prometheus::MetricFamily>* families) const;
  void CollectGauges(std::vector<prometheus::MetricFamily>* families) const;
  void CollectHealth(std::vector<prometheus::MetricFamily>* families) const;
  // A label model_name, and those given.
  prometheus::ClientMetric Labelled(prometheus::ClientMetric metric,
                                    std::vector<prometheus::ClientMetric::Label> labels = {}) const;

  const std::string model_name_;
  std::function<EngineGauges()> gauges_;
  std::function<void(const TokenEvent&)> probe_;
  Histogram step_duration_, step_rows_;
  std::atomic<int64_t> prompt_tokens_{0}, generated_tokens_{0};
  std::array<std::atomic<int64_t>, static_cast<size_t>(Ending::kInternal) + 1> endings_{};
  std::vector<std::unique_ptr<LayerHealth>> layers_;
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_METRICS_H_
