#include "clients/cli/bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

double Milliseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

// Adds what one completed request contributes; `per_second` counts tokens by second of the run.
void Count(const RequestRecord& request, Clock::time_point start, std::vector<double>& per_second) {
  for (const RequestRecord::Arrival& arrival : request.arrivals) {
    const auto second = static_cast<size_t>(Milliseconds(arrival.time - start) / 1e3);
    per_second.resize(std::max(per_second.size(), second + 1));
    per_second[second] += static_cast<double>(arrival.tokens);
  }
}

}  // namespace

int64_t RequestRecord::output_tokens() const {
  return std::accumulate(arrivals.begin(), arrivals.end(), int64_t{0},
                         [](int64_t sum, const Arrival& arrival) { return sum + arrival.tokens; });
}

double RequestRecord::ttft_ms() const {
  return Milliseconds(arrivals.front().time - sent);
}

double RequestRecord::e2el_ms() const {
  return Milliseconds(arrivals.back().time - sent);
}

double RequestRecord::tpot_ms() const {
  const int64_t tokens = output_tokens();
  return tokens > 1 ? (e2el_ms() - ttft_ms()) / static_cast<double>(tokens - 1) : 0;
}

double Percentile(const std::vector<double>& sorted, double percent) {
  const double place = percent / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - static_cast<double>(below));
}

Summary Summarize(std::vector<double> values) {
  if (values.empty()) {
    return {};
  }
  std::sort(values.begin(), values.end());
  const auto count = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (double value : values) {
    squares += (value - mean) * (value - mean);
  }
  return {.mean = mean,
          .median = Percentile(values, 50),
          .std = std::sqrt(squares / count),
          .p90 = Percentile(values, 90),
          .p95 = Percentile(values, 95),
          .p99 = Percentile(values, 99),
          .max = values.back()};
}

bool Objectives::Met(const RequestRecord& request) const {
  return (!ttft_ms || request.ttft_ms() <= *ttft_ms) &&
         (!tpot_ms || request.tpot_ms() <= *tpot_ms) && (!e2el_ms || request.e2el_ms() <= *e2el_ms);
}

std::string ParseObjectives(const std::vector<std::string>& texts, Objectives& objectives) {
  const std::map<std::string, std::optional<double>*> fields = {
      {"ttft", &objectives.ttft_ms}, {"tpot", &objectives.tpot_ms}, {"e2el", &objectives.e2el_ms}};
  for (const std::string& text : texts) {
    const size_t colon = std::min(text.find(':'), text.size());
    const auto field = fields.find(text.substr(0, colon));
    double limit_ms = 0;
    if (field == fields.end() || colon == text.size() ||
        !absl::SimpleAtod(text.substr(colon + 1), &limit_ms) || !std::isfinite(limit_ms) ||
        limit_ms <= 0) {
      return absl::StrCat("--goodput: '", text,
                          "' is not METRIC:MILLISECONDS with ttft, tpot or e2el and a number > 0");
    }
    *field->second = limit_ms;
  }
  return "";
}

LoadStatistics Evaluate(const std::vector<RequestRecord>& requests, const Objectives& objectives) {
  LoadStatistics result;
  std::vector<double> ttft, tpot, itl, e2el, per_second;
  Clock::time_point start = Clock::time_point::max();
  for (const RequestRecord& request : requests) {
    start = std::min(start, request.sent);
  }
  for (const RequestRecord& request : requests) {
    if (!request.error.empty()) {
      ++result.failed;
      ++result.errors[request.error];
      continue;
    }
    ++result.completed;
    result.good += objectives.any() && objectives.Met(request);
    result.input_tokens += request.input_tokens;
    result.output_tokens += request.output_tokens();
    ttft.push_back(request.ttft_ms());
    e2el.push_back(request.e2el_ms());
    if (request.output_tokens() > 1) {
      tpot.push_back(request.tpot_ms());
    }
    for (size_t i = 1; i < request.arrivals.size(); ++i) {
      itl.push_back(Milliseconds(request.arrivals[i].time - request.arrivals[i - 1].time));
    }
    Count(request, start, per_second);
  }
  if (!per_second.empty()) {
    result.max_output_tokens_per_s = *std::max_element(per_second.begin(), per_second.end());
  }
  result.ttft = Summarize(std::move(ttft));
  result.tpot = Summarize(std::move(tpot));
  result.itl = Summarize(std::move(itl));
  result.e2el = Summarize(std::move(e2el));
  return result;
}

}  // namespace evenflow
