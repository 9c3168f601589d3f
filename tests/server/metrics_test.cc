// Names, types and numbers of /metrics.
#include "server/metrics.h"

#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

namespace evenflow {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Text(const Metrics& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.Collect());
}

TEST(HistogramTest, BucketsIncludeTheirUpperBound) {
  Histogram histogram({1, 2});
  for (const double value : {1.0, 1.5, 2.0, 3.0}) {
    histogram.Observe(value);
  }
  const auto collected = histogram.Collect().histogram;
  ASSERT_EQ(collected.bucket.size(), 2u);
  EXPECT_EQ(collected.bucket[0].cumulative_count, 1u);
  EXPECT_EQ(collected.bucket[1].cumulative_count, 3u);
  EXPECT_EQ(collected.sample_count, 4u);
  EXPECT_EQ(collected.sample_sum, 7.5);
}

TEST(HistogramTest, CountsWhatSeveralThreadsObserve) {
  Histogram histogram({1, 2});
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&histogram] {
      for (int n = 0; n < 10'000; ++n) {
        histogram.Observe(1);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(histogram.Collect().histogram.sample_count, 40'000u);
  EXPECT_EQ(histogram.Collect().histogram.sample_sum, 40'000);
}

TEST(RecentMaxTest, ForgetsAfterTwoMinutes) {
  const SteadyTime start{std::chrono::hours(10)};
  RecentMax max;
  max.Observe(5, start);
  max.Observe(3, start);
  EXPECT_EQ(max.Value(start), 5);
  max.Observe(2, start + std::chrono::minutes(1));
  EXPECT_EQ(max.Value(start + std::chrono::minutes(1)), 5);
  max.Observe(1, start + std::chrono::minutes(2));
  EXPECT_EQ(max.Value(start + std::chrono::minutes(2)), 2);
  EXPECT_EQ(max.Value(start + std::chrono::minutes(9)), 0);
}

TEST(RecentMaxTest, ShowsNaN) {
  const SteadyTime now{std::chrono::hours(10)};
  RecentMax max;
  max.Observe(5, now);
  max.Observe(std::nan(""), now);
  EXPECT_TRUE(std::isnan(max.Value(now)));
}

TEST(MetricsTest, EveryMetricNamesTheModel) {
  // Layers 1 and 2 have no memory.
  Metrics metrics("demo", {{0, "state"}, {3, "state"}, {3, "preconditioner"}});
  metrics.CountEnd(FinishReason::kLength);
  metrics.CountEnd(absl::CancelledError("gone"));
  const EngineObserver observer = metrics.Observer();
  observer.on_step({.seconds = 0.0001, .rows = 3, .prompt_tokens = 7, .decode_tokens = 2});
  observer.on_state_health(1, {.committed = true, .norm = 2, .max_abs = 0.5, .non_finite = 4});
  observer.on_state_health(2, {.committed = true, .norm = 5, .max_abs = 7});
  const std::string text = Text(metrics);
  for (const char* line : {
           "evenflow_requests_finished_total{model_name=\"demo\",reason=\"length\"} 1",
           "evenflow_requests_finished_total{model_name=\"demo\",reason=\"cancelled\"} 1",
           "evenflow_prompt_tokens_total{model_name=\"demo\"} 7",
           "evenflow_step_rows_bucket{model_name=\"demo\",le=\"4\"} 1",
           "evenflow_step_duration_seconds_bucket{model_name=\"demo\",le=\"5e-05\"} 0",
           "evenflow_state_norm_count{model_name=\"demo\",layer=\"3\",plane=\"state\"} 1",
           "evenflow_state_norm_count{model_name=\"demo\",layer=\"0\",plane=\"state\"} 0",
           "evenflow_state_max_abs{model_name=\"demo\",layer=\"3\",plane=\"state\"} 0.5",
           "evenflow_state_non_finite_total{model_name=\"demo\",layer=\"3\",plane=\"state\"} 4",
           "evenflow_state_max_abs{model_name=\"demo\",layer=\"3\",plane=\"preconditioner\"} 7",
           "# TYPE evenflow_time_to_first_token_seconds histogram",
           "# TYPE evenflow_requests_running gauge",
           "process_resident_memory_bytes{model_name=\"demo\"} ",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("layer=\"1\"")));
}

}  // namespace
}  // namespace evenflow
