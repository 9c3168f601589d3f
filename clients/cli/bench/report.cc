#include <cmath>
#include <string>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/bench/bench_serve.h"

namespace evenflow {
namespace {

double PerSecond(int64_t count, const LoadStatistics& statistics) {
  return statistics.duration_seconds > 0 ? static_cast<double>(count) / statistics.duration_seconds
                                         : 0;
}

void AddSummary(nlohmann::ordered_json& json, const std::string& name, const Summary& summary) {
  json["mean_" + name + "_ms"] = summary.mean;
  json["median_" + name + "_ms"] = summary.median;
  json["std_" + name + "_ms"] = summary.std;
  json["p90_" + name + "_ms"] = summary.p90;
  json["p95_" + name + "_ms"] = summary.p95;
  json["p99_" + name + "_ms"] = summary.p99;
  json["max_" + name + "_ms"] = summary.max;
}

bool AllAtOnce(const BenchServeCommand& flags) {
  return flags.request_rate == 0 || std::isinf(flags.request_rate);
}

std::string Row(const std::string& name, const Summary& summary) {
  return absl::StrFormat("%-6s%10.3f%10.3f%10.3f%10.3f%10.3f%10.3f\n", name, summary.mean,
                         summary.median, summary.std, summary.p90, summary.p99, summary.max);
}

}  // namespace

std::string ReportAsJson(const LoadReport& report) {
  const LoadStatistics& statistics = report.statistics;
  const BenchServeCommand& flags = report.flags;
  nlohmann::ordered_json json;
  json["backend"] = "evenflow";
  json["model_id"] = report.model.name();
  json["num_prompts"] = flags.num_prompts;
  json["request_rate"] =
      AllAtOnce(flags) ? nlohmann::ordered_json("inf") : nlohmann::ordered_json(flags.request_rate);
  json["ramp_seconds"] = flags.ramp_seconds;
  json["max_concurrency"] = flags.max_concurrency ? nlohmann::ordered_json(*flags.max_concurrency)
                                                  : nlohmann::ordered_json();
  json["input_len"] = flags.input_len;
  json["output_len"] = flags.output_len;
  json["duration"] = statistics.duration_seconds;
  json["completed"] = statistics.completed;
  json["failed"] = statistics.failed;
  json["errors"] = nlohmann::ordered_json::object();
  for (const auto& [code, count] : statistics.errors) {
    json["errors"][code] = count;
  }
  json["total_input_tokens"] = statistics.input_tokens;
  json["total_output_tokens"] = statistics.output_tokens;
  json["request_throughput"] = PerSecond(statistics.completed, statistics);
  json["request_goodput"] = report.has_objectives
                                ? nlohmann::ordered_json(PerSecond(statistics.good, statistics))
                                : nlohmann::ordered_json();
  json["output_throughput"] = PerSecond(statistics.output_tokens, statistics);
  json["total_token_throughput"] =
      PerSecond(statistics.input_tokens + statistics.output_tokens, statistics);
  json["max_output_tokens_per_s"] = statistics.max_output_tokens_per_s;
  json["max_concurrent_requests"] = statistics.max_concurrent_requests;
  AddSummary(json, "ttft", statistics.ttft);
  AddSummary(json, "tpot", statistics.tpot);
  AddSummary(json, "itl", statistics.itl);
  AddSummary(json, "e2el", statistics.e2el);
  return json.dump();
}

std::string ReportAsText(const LoadReport& report) {
  const LoadStatistics& statistics = report.statistics;
  std::string text = absl::StrFormat(
      "%d requests completed, %d failed, in %.2f s; at most %d at one time\n", statistics.completed,
      statistics.failed, statistics.duration_seconds, statistics.max_concurrent_requests);
  for (const auto& [code, count] : statistics.errors) {
    absl::StrAppendFormat(&text, "  %s: %d\n", code, count);
  }
  absl::StrAppendFormat(
      &text, "%.2f requests/s, %.1f output tokens/s, %.1f tokens/s read and written\n",
      PerSecond(statistics.completed, statistics), PerSecond(statistics.output_tokens, statistics),
      PerSecond(statistics.input_tokens + statistics.output_tokens, statistics));
  if (report.has_objectives) {
    absl::StrAppendFormat(&text, "goodput %.2f requests/s (%d of %d within the limits)\n",
                          PerSecond(statistics.good, statistics), statistics.good,
                          statistics.completed);
  }
  absl::StrAppendFormat(&text, "%-6s%10s%10s%10s%10s%10s%10s\n", "ms", "mean", "median", "std",
                        "p90", "p99", "max");
  absl::StrAppend(&text, Row("ttft", statistics.ttft), Row("tpot", statistics.tpot),
                  Row("itl", statistics.itl), Row("e2el", statistics.e2el));
  return text;
}

}  // namespace evenflow
