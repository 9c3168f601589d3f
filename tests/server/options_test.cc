// The command line of `serve`: values, ranges, and what is said about a typing error.
#include "server/options.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace evenflow {
namespace {

using ::testing::HasSubstr;

class OptionsTest : public ::testing::Test {
 protected:
  OptionsTest() {
    app_.require_subcommand(1);
    AddServeCommand(app_, &options_);
  }

  CLI::App app_{"test"};
  ServeOptions options_;
};

TEST_F(OptionsTest, FlagsReachTheirFields) {
  app_.parse(
      "serve --model dir --listen 127.0.0.1:0 --max-sessions 7 --window 8 --state-dtype bf16 "
      "--idle-timeout 2.5 --drain-timeout 3 --allow-session-listing --host-memory 0.5");
  EXPECT_EQ(options_.model_directory, "dir");
  EXPECT_EQ(options_.listen, "127.0.0.1:0");
  EXPECT_EQ(options_.engine.max_sessions, 7);
  EXPECT_EQ(options_.window.commit, 8);
  EXPECT_EQ(options_.state_dtype, DType::kBF16);
  EXPECT_EQ(options_.engine.idle_timeout, std::chrono::milliseconds(2500));
  EXPECT_EQ(options_.engine.host_memory_bytes, int64_t{1} << 29);
  EXPECT_EQ(options_.drain_timeout_seconds, 3);
  EXPECT_TRUE(options_.allow_session_listing);
}

TEST_F(OptionsTest, LoopbackIsTheDefault) {
  EXPECT_EQ(options_.listen, "127.0.0.1:50051");
  EXPECT_EQ(options_.metrics_listen, "127.0.0.1:9464");
  EXPECT_FALSE(options_.allow_session_listing);
}

TEST_F(OptionsTest, ABadFlagSuggestsTheNearest) {
  EXPECT_THROW(app_.parse("serve --model dir --max-sesions 7"), CLI::ParseError);
  EXPECT_EQ(SuggestFlag(app_), "unknown flag --max-sesions; did you mean --max-sessions?");
}

TEST_F(OptionsTest, AMistypedRequiredFlagIsSuggestedToo) {
  EXPECT_THROW(app_.parse("serve --modle dir"), CLI::ParseError);
  EXPECT_EQ(SuggestFlag(app_), "unknown flag --modle; did you mean --model?");
}

TEST_F(OptionsTest, AddressesAndRangesAreChecked) {
  EXPECT_THROW(app_.parse("serve --model dir --listen 127.0.0.1"), CLI::ValidationError);
  EXPECT_THROW(app_.parse("serve --model dir --listen 127.0.0.1:70000"), CLI::ValidationError);
  EXPECT_THROW(app_.parse("serve --model dir --window 0"), CLI::ValidationError);
  EXPECT_THROW(app_.parse("serve --model dir --device tpu"), CLI::ValidationError);
}

TEST_F(OptionsTest, MetricsNeedNoAddress) {
  app_.parse("serve --model dir --metrics-listen none");
  EXPECT_EQ(options_.metrics_listen, "none");
}

TEST_F(OptionsTest, HalfPrecisionActivationsNeedAnotherDevice) {
  options_.device.activations = "bf16";
  const absl::Status status = CheckServeOptions(options_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("only fp32"));
}

TEST_F(OptionsTest, BatchInvarianceNeedsHalfPrecisionOnCuda) {
  options_.device.batch_invariant = true;
  EXPECT_TRUE(CheckServeOptions(options_).ok());
  options_.device.device = "cuda";
  EXPECT_TRUE(CheckServeOptions(options_).ok());
  options_.device.activations = "fp32";
  const absl::Status status = CheckServeOptions(options_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("only bf16"));
}

}  // namespace
}  // namespace evenflow
