// Models whose memories have several states a head: the window that they use, and what is said of
// them.
#include "engine/model/inspect.h"
#include "engine/model/model.h"
#include "engine/model/random_checkpoint.h"

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/engine/model/temp_directory.h"

namespace evenflow {
namespace {

using testing::HasSubstr;

class BankedModelTest : public testing::Test {
 protected:
  BankedModelTest() : backend_(CreateCpuBackend({.threads = 1})) {}

  void Write(const std::string& fields) {
    const std::string config = R"({"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2,
        "vocab_size": 40, "intermediate_size": 48, )" +
                               fields + "}";
    const absl::Status status = WriteRandomCheckpoint(directory_.path(), config, 7);
    ASSERT_TRUE(status.ok()) << status;
  }

  std::unique_ptr<Model> Load(int window) {
    ModelOptions options;
    options.window.commit = window;
    auto model = Model::Load(directory_.path(), options, *backend_);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }

  TempDirectory directory_;
  std::unique_ptr<Backend> backend_;
};

TEST_F(BankedModelTest, LogLinearTakesThePowerOfTwoThatIsNotShorter) {
  Write(R"("model_type": "log_linear", "num_levels": 10)");
  for (const auto& [asked, used] : {std::pair{1, 2}, {2, 2}, {7, 8}, {16, 16}, {33, 64}}) {
    EXPECT_EQ(Load(asked)->window().commit, used) << "asked for " << asked;
  }
  const std::unique_ptr<Model> model = Load(7);
  EXPECT_THAT(InspectText(*model), HasSubstr("window 8, rollback 2"));
  EXPECT_THAT(InspectText(*model),
              HasSubstr("layer 0: log_linear_attention, 2 heads of 16 x 16, 6 states each"))
      << "levels 4 to 9";
  const nlohmann::json json = nlohmann::json::parse(InspectJson(*model));
  EXPECT_EQ(json["window"], 8);
  EXPECT_EQ(json["layers"][0]["banks"], 6);
  EXPECT_EQ(json["layers"][0]["detail"], "10 levels, the top one keeps what outgrows it");
  EXPECT_GE(json["layers"][0]["state_bytes"], 2 * 6 * 16 * 16 * 4);
}

// An absent qk_norm is the transition's own; null is none, which shows in the logits alone.
TEST_F(BankedModelTest, DeltaTransitionsAreAnotherMemory) {
  Write(R"("model_type": "log_linear", "transition": "delta", "qk_norm": null)");
  EXPECT_EQ(Load(16)->info().memories, std::vector<std::string>{"log_linear_delta_rule"});
}

TEST_F(BankedModelTest, VortSaysWhatItsNodesReach) {
  Write(R"("model_type": "vort", "horizon": 1000000, "epsilon": 1e-3)");
  for (const auto& [asked, used] : {std::pair{1, 16}, {16, 16}, {20, 20}}) {
    const std::unique_ptr<Model> model = Load(asked);
    EXPECT_EQ(model->window().commit, used) << "asked for " << asked;
    EXPECT_EQ(model->window().ring(), 2 * used + 2);
  }
  const std::unique_ptr<Model> model = Load(16);
  const nlohmann::json layer = nlohmann::json::parse(InspectJson(*model))["layers"][0];
  EXPECT_EQ(layer["memory"], "vort");
  EXPECT_EQ(layer["banks"], 8);
  EXPECT_EQ(layer["value_dim"], 17) << "and the normaliser";
  EXPECT_GE(layer["state_bytes"], 2 * 8 * 16 * 17 * 4);
  EXPECT_THAT(layer["detail"].get<std::string>(),
              testing::MatchesRegex("8 nodes, weights of tokens 17 to 1000000 ago off by at most "
                                    "[5-9]\\.[0-9]e-04"));
  EXPECT_THAT(InspectText(*model), HasSubstr(", 8 states each, "));

  Write(R"("model_type": "vort", "horizon": 1000000, "epsilon": 1e-6)");
  EXPECT_THAT(InspectText(*Load(16)),
              testing::ContainsRegex("off by at most [7-9]\\.[0-9]e-05, more than the epsilon of "
                                     "1.0e-06 asked for"));
}

}  // namespace
}  // namespace evenflow
