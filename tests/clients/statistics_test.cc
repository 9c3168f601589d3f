// Figures of a load run against numbers worked out by hand (numpy's definitions).
#include "clients/cli/bench/statistics.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "clients/cli/bench/arrivals.h"

namespace evenflow {
namespace {

using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

Clock::time_point At(int64_t ms) {
  return Clock::time_point(std::chrono::milliseconds(ms));
}

TEST(SummarizeTest, FollowsNumpy) {
  // numpy: mean 4, std sqrt(10), percentiles by linear interpolation.
  const Summary summary = Summarize({10, 1, 2, 3, 4});
  EXPECT_DOUBLE_EQ(summary.mean, 4);
  EXPECT_DOUBLE_EQ(summary.median, 3);
  EXPECT_DOUBLE_EQ(summary.std, std::sqrt(10.0));
  EXPECT_DOUBLE_EQ(summary.p90, 7.6);
  EXPECT_DOUBLE_EQ(summary.p99, 9.76);
  EXPECT_DOUBLE_EQ(summary.max, 10);
}

TEST(SummarizeTest, OneAndNone) {
  EXPECT_DOUBLE_EQ(Summarize({7}).p99, 7);
  EXPECT_DOUBLE_EQ(Summarize({7}).std, 0);
  EXPECT_DOUBLE_EQ(Summarize({}).mean, 0);
}

TEST(RequestRecordTest, TimesLeaveTheFirstTokenOutOfTpot) {
  const RequestRecord request = {.sent = At(100), .arrivals = {{At(150), 1}, {At(160), 3}}};
  EXPECT_EQ(request.output_tokens(), 4);
  EXPECT_DOUBLE_EQ(request.ttft_ms(), 50);
  EXPECT_DOUBLE_EQ(request.e2el_ms(), 60);
  EXPECT_DOUBLE_EQ(request.tpot_ms(), 10.0 / 3);
}

TEST(EvaluateTest, CountsOnlyWhatCompleted) {
  std::vector<RequestRecord> requests(4);
  requests[0] = {.sent = At(0), .arrivals = {{At(20), 1}, {At(30), 1}}, .input_tokens = 5};
  requests[1] = {.sent = At(0), .arrivals = {{At(80), 1}, {At(1200), 1}}, .input_tokens = 5};
  requests[2] = {.sent = At(0), .arrivals = {{At(5), 1}}, .error = "RESOURCE_EXHAUSTED"};
  requests[3] = {.sent = At(10), .arrivals = {{At(30), 1}}, .input_tokens = 5};
  Objectives objectives;
  ASSERT_EQ(ParseObjectives({"ttft:50"}, objectives), "");
  const LoadStatistics statistics = Evaluate(requests, objectives);
  EXPECT_EQ(statistics.completed, 3);
  EXPECT_EQ(statistics.failed, 1);
  EXPECT_EQ(statistics.good, 2);
  EXPECT_EQ(statistics.input_tokens, 15);
  EXPECT_EQ(statistics.output_tokens, 5);
  EXPECT_DOUBLE_EQ(statistics.max_output_tokens_per_s, 4);  // the fifth comes in second 1
  EXPECT_DOUBLE_EQ(statistics.ttft.mean, 40);
  EXPECT_DOUBLE_EQ(statistics.itl.max, 1120);
  EXPECT_DOUBLE_EQ(statistics.tpot.median, 565);  // of the two requests with two tokens
  EXPECT_THAT(statistics.errors, UnorderedElementsAre(Pair("RESOURCE_EXHAUSTED", 1)));
}

TEST(ObjectivesTest, AllLimitsMustHold) {
  Objectives objectives;
  ASSERT_EQ(ParseObjectives({"ttft:50", "tpot:9.5", "e2el:1e3"}, objectives), "");
  const RequestRecord slow = {.sent = At(0), .arrivals = {{At(50), 1}, {At(60), 1}}};
  EXPECT_FALSE(objectives.Met(slow));
  objectives.tpot_ms = 10;
  EXPECT_TRUE(objectives.Met(slow));
}

TEST(ObjectivesTest, NamesWhatIsWrong) {
  Objectives objectives;
  for (const char* text :
       {"ttft", "itl:5", "ttft:", "ttft:fast", "tpot:-1", "tpot:nan", "e2el:inf"}) {
    EXPECT_THAT(ParseObjectives({text}, objectives), HasSubstr(text));
  }
}

TEST(ArrivalsTest, PoissonAtTheAskedRate) {
  const std::vector<double> times = ArrivalSeconds({.count = 10000, .rate = 50, .seed = 3});
  // The last arrival is a sum of n exponentials: mean n / rate, deviation sqrt(n) / rate = 2 s.
  EXPECT_NEAR(times.back(), 200, 5 * 2);
  double squares = 0;
  for (size_t i = 1; i < times.size(); ++i) {
    ASSERT_GE(times[i], times[i - 1]);
    squares += std::pow(times[i] - times[i - 1], 2);
  }
  // An exponential gap's second moment is 2 / rate^2; its relative deviation is sqrt(5 / n).
  EXPECT_NEAR(squares / 10000 * 50 * 50, 2, 2 * 5 * std::sqrt(5.0 / 10000));
  EXPECT_EQ(times, ArrivalSeconds({.count = 10000, .rate = 50, .seed = 3}));
}

TEST(ArrivalsTest, RampGrowsInAStraightLine) {
  const std::vector<double> times =
      ArrivalSeconds({.count = 20000, .rate = 1000, .ramp_seconds = 10, .seed = 1});
  const auto count_until = [&times](double end) {
    return static_cast<double>(std::lower_bound(times.begin(), times.end(), end) - times.begin());
  };
  // Expected n(t) = 1000 t^2 / 20 in the ramp, 1000 (t - 5) after it; deviation sqrt(n).
  EXPECT_NEAR(count_until(5), 1250, 5 * std::sqrt(1250.0));
  EXPECT_NEAR(count_until(10), 5000, 5 * std::sqrt(5000.0));
  EXPECT_NEAR(count_until(15), 10000, 5 * std::sqrt(10000.0));
}

TEST(ArrivalsTest, AllAtOnce) {
  for (double rate : {0.0, std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(ArrivalSeconds({.count = 3, .rate = rate}), std::vector<double>(3, 0.0));
  }
}

}  // namespace
}  // namespace evenflow
