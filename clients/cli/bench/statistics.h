// What a load run measured, and what is reported of it. Plain values: any one thread at a time.
#ifndef EVENFLOW_CLIENTS_CLI_BENCH_STATISTICS_H_
#define EVENFLOW_CLIENTS_CLI_BENCH_STATISTICS_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace evenflow {

using Clock = std::chrono::steady_clock;

// One request as the client saw it.
struct RequestRecord {
  struct Arrival {
    Clock::time_point time;
    int64_t tokens = 0;
  };

  Clock::time_point sent;
  std::vector<Arrival> arrivals;  // messages that carried tokens, in order
  int64_t input_tokens = 0;
  std::string error = {};  // "" if it ended well, else the code's name

  int64_t output_tokens() const;
  // Milliseconds. All need at least one arrival.
  double ttft_ms() const;  // sent -> first tokens
  double e2el_ms() const;  // sent -> last tokens
  double tpot_ms() const;  // (e2el - ttft) / (output tokens - 1); 0 for one token
};

// Of a list of values; all 0 for an empty one. Standard deviation over the whole list (not
// n - 1), percentiles interpolated linearly between neighbours: numpy's defaults.
struct Summary {
  double mean = 0, median = 0, std = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;
};

Summary Summarize(std::vector<double> values);

// `percent` in [0, 100] of a sorted, non-empty list.
double Percentile(const std::vector<double>& sorted, double percent);

// Limits that a good request keeps, milliseconds.
struct Objectives {
  std::optional<double> ttft_ms, tpot_ms, e2el_ms;

  bool any() const { return ttft_ms || tpot_ms || e2el_ms; }

  bool Met(const RequestRecord& request) const;
};

// Parses "ttft:50", "tpot:10" and "e2el:500". Returns "" or what is wrong.
std::string ParseObjectives(const std::vector<std::string>& texts, Objectives& objectives);

struct LoadStatistics {
  double duration_seconds = 0;  // first request sent -> last one ended
  int64_t completed = 0;
  int64_t failed = 0;
  int64_t good = 0;                             // completed and within the objectives
  int64_t input_tokens = 0, output_tokens = 0;  // of completed requests
  double max_output_tokens_per_s = 0;           // in the best of the run's whole seconds
  int64_t max_concurrent_requests = 0;
  Summary ttft, tpot, itl, e2el;          // milliseconds
  std::map<std::string, int64_t> errors;  // code -> requests
};

LoadStatistics Evaluate(const std::vector<RequestRecord>& requests, const Objectives& objectives);

}  // namespace evenflow

#endif  // EVENFLOW_CLIENTS_CLI_BENCH_STATISTICS_H_
