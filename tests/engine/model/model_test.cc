#include "engine/model/model.h"

#include <cmath>

#include "engine/model/inspect.h"
#include "engine/model/logits.h"
#include "engine/model/random_checkpoint.h"

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/engine/model/temp_directory.h"

namespace evenflow {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kRetNet[] = R"({"model_type": "retnet", "hidden_size": 32, "num_hidden_layers": 2,
  "num_heads": 2, "vocab_size": 40, "intermediate_size": 48})";

// A random checkpoint that tests then damage.
class ModelTest : public testing::Test {
 protected:
  ModelTest() : backend_(CreateCpuBackend({.threads = 1})) { Write(kRetNet); }

  void Write(const std::string& config) {
    const absl::Status status = WriteRandomCheckpoint(directory_.path(), config, 7);
    ASSERT_TRUE(status.ok()) << status;
  }

  absl::StatusOr<std::unique_ptr<Model>> Load(const ModelOptions& options = {}) {
    return Model::Load(directory_.path(), options, *backend_);
  }

  std::string Error(const ModelOptions& options = {}) {
    return std::string(Load(options).status().message());
  }

  // The error with fields of config.json replaced.
  std::string ErrorWith(const std::string& changes) {
    nlohmann::json config = nlohmann::json::parse(kRetNet);
    config.update(nlohmann::json::parse(changes));
    directory_.Write("config.json", config.dump());
    return Error();
  }

  // Replaces text in the header of model.safetensors by text of the same length.
  void EditHeader(const std::string& from, const std::string& to) {
    ASSERT_EQ(from.size(), to.size());
    std::string file = directory_.Read("model.safetensors");
    const size_t at = file.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    directory_.Write("model.safetensors", file.replace(at, from.size(), to));
  }

  TempDirectory directory_;
  std::unique_ptr<Backend> backend_;
};

TEST_F(ModelTest, KnowsItself) {
  const absl::StatusOr<std::unique_ptr<Model>> model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelInfo& info = (*model)->info();
  EXPECT_EQ(info.model_type, "retnet");
  EXPECT_EQ(info.vocab_size, 40);
  EXPECT_EQ(info.memories, std::vector<std::string>({"retention", "retention"}));
  // Embeddings and head, final norm; per layer q, k, v, g, o, g_norm, two norms, the MLP.
  const int64_t layer = 32 * (32 + 32 + 64 + 64 + 64) + 32 + 2 * 32 + 3 * 32 * 48;
  EXPECT_EQ(info.parameters, 2 * 40 * 32 + 32 + 2 * layer);
  EXPECT_EQ(info.eos_tokens, std::vector<int32_t>({2}));
  EXPECT_EQ(info.bos_token, 1);

  const nlohmann::json json = nlohmann::json::parse(InspectJson(**model));
  EXPECT_EQ(json["layers"].size(), 2u);
  EXPECT_EQ(json["layers"][1]["memory"], "retention");
  EXPECT_EQ(json["parameters"], info.parameters);
  EXPECT_EQ(json["window"], 16);
  EXPECT_EQ(json["state_bytes_per_session"], (*model)->slot_bytes());
  EXPECT_EQ(json["options"]["num_heads"], 2);           // as the file says
  EXPECT_EQ(json["options"]["use_output_gate"], true);  // by default
  int64_t bytes = 0;
  for (const auto& item : json["layers"]) {
    bytes += item["state_bytes"].get<int64_t>();
  }
  EXPECT_EQ(static_cast<size_t>(bytes), (*model)->slot_bytes());
  EXPECT_THAT(InspectText(**model), HasSubstr("layer 1: retention, 2 heads of 16 x 32"));
}

TEST_F(ModelTest, LoadReportsProgressUpToOne) {
  double last = 0;
  ModelOptions options;
  options.progress = [&](double fraction) {
    EXPECT_GE(fraction, last);
    last = fraction;
  };
  ASSERT_TRUE(Load(options).ok());
  EXPECT_EQ(last, 1.0);
}

TEST_F(ModelTest, RandomCheckpointsOfAllFamiliesComputeFiniteLogits) {
  for (const char* type : {"retnet", "linear_attn", "delta_net", "gated_deltanet", "gla", "hgrn2",
                           "kda", "mamba2", "rwkv7", "vla"}) {
    Write(RandomConfig({type, 64, 2, 2, 100}));
    absl::StatusOr<std::unique_ptr<Model>> model = Load();
    ASSERT_TRUE(model.ok()) << type << ": " << model.status();
    const absl::StatusOr<std::vector<float>> logits =
        ComputeLogits(**model, *backend_, {1, 2, 3, 4, 5}, 3);
    ASSERT_TRUE(logits.ok()) << type << ": " << logits.status();
    for (const float x : *logits) {
      ASSERT_TRUE(std::isfinite(x)) << type;
    }
  }
}

TEST_F(ModelTest, RefusesBadDirectories) {
  EXPECT_EQ(Model::Load("/nowhere", {}, *backend_).status().code(), absl::StatusCode::kNotFound);
  std::filesystem::remove(directory_.File("model.safetensors"));
  EXPECT_THAT(Error(), HasSubstr("model.safetensors: cannot be opened"));
  std::filesystem::remove(directory_.File("config.json"));
  EXPECT_THAT(Error(), HasSubstr("config.json: cannot be opened"));
}

TEST_F(ModelTest, RefusesTruncatedFiles) {
  const std::string file = directory_.Read("model.safetensors");
  for (const size_t length : {size_t{0}, size_t{7}, size_t{100}, file.size() - 1}) {
    directory_.Write("model.safetensors", file.substr(0, length));
    EXPECT_THAT(Error(), HasSubstr("model.safetensors: ")) << length;
  }
}

TEST_F(ModelTest, RefusesUnknownModelsAndOptions) {
  EXPECT_THAT(ErrorWith(R"({"model_type": "llama"})"),
              HasSubstr("model_type is \"llama\"; supported: retnet, linear_attn, delta_net, "
                        "gated_deltanet, gla, hgrn2, kda, mamba2, rwkv7"));
  EXPECT_THAT(ErrorWith(R"({"model_type": null})"), HasSubstr("model_type is absent"));
  EXPECT_THAT(ErrorWith(R"({"attnres_block_size": 4})"), HasSubstr("attnres_block_size is 4"));
  EXPECT_THAT(ErrorWith(R"({"hidden_act": "gelu"})"), HasSubstr("allowed: \"swish\", \"silu\""));
  EXPECT_THAT(ErrorWith(R"({"feature_map": "tanh"})"), HasSubstr("feature_map is \"tanh\""));
  EXPECT_THAT(ErrorWith(R"({"num_heads": 0})"), HasSubstr("num_heads is 0; allowed"));
  EXPECT_THAT(ErrorWith(R"({"num_heads": 3})"), HasSubstr("a multiple of num_heads = 3"));
  EXPECT_THAT(ErrorWith(R"({"num_heads": 4, "num_kv_heads": 3})"),
              HasSubstr("num_kv_heads is 3; allowed: a divisor of num_heads = 4"));
  EXPECT_THAT(ErrorWith(R"({"hidden_size": 1e9})"), HasSubstr("hidden_size is 1000000000.0"));
  EXPECT_THAT(ErrorWith(R"({"norm_type": "layer"})"), HasSubstr("norm_type is \"layer\"; allowed"));
  EXPECT_THAT(ErrorWith(R"({"norm_eps": "tiny"})"), HasSubstr("norm_eps is \"tiny\""));
}

TEST_F(ModelTest, RefusesMamba2SizesThatDoNotFit) {
  const auto error = [&](const std::string& fields) {
    directory_.Write("config.json", R"({"model_type": "mamba2", "hidden_size": 32, "vocab_size": 40,
                                        "num_hidden_layers": 1, )" +
                                        fields + "}");
    return Error();
  };
  EXPECT_THAT(error(R"("head_dim": 24)"), HasSubstr("head_dim is 24; allowed: a divisor of"));
  EXPECT_THAT(error(R"("head_dim": 16, "n_groups": 3)"),
              HasSubstr("n_groups is 3; allowed: a div"));
  EXPECT_THAT(error(R"("dt_limit": [2, 1])"),
              HasSubstr("dt_limit is [2,1]; allowed: a finite lower"));
  EXPECT_THAT(error(R"("dt_limit": [Infinity, Infinity])"), HasSubstr("allowed: a finite lower"));
  EXPECT_THAT(error(R"("norm_type": "dyt")"), HasSubstr("norm_type is \"dyt\"; allowed"));
  EXPECT_THAT(error(R"("attn": {"layers": []})"),
              HasSubstr("attention in no layer; allowed: null"));
}

TEST_F(ModelTest, KnowsItsHybridLayers) {
  nlohmann::json config = nlohmann::json::parse(kRetNet);
  config["num_hidden_layers"] = 3;
  config["attn"] = nlohmann::json::parse(
      R"({"layers": [1], "num_heads": 4, "num_kv_heads": 2, "window_size": 10})");
  Write(config.dump());
  const absl::StatusOr<std::unique_ptr<Model>> model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->info().memories,
            std::vector<std::string>({"retention", "window_attention", "retention"}));
  const std::vector<StatePlane> planes = (*model)->state_planes();
  ASSERT_EQ(planes.size(), 2u);
  EXPECT_EQ(planes[0].layer, 0);
  EXPECT_EQ(planes[1].layer, 2);
  const LayerInfo& layer = (*model)->layers()[1];
  EXPECT_EQ(layer.attention_window, 10);
  // Keys and values of 2 heads of 8 channels for 9 earlier tokens and 2 that may be taken back.
  EXPECT_EQ(layer.state_bytes, 2 * 2 * 8 * (9 + 2) * 4);
  const nlohmann::json json = nlohmann::json::parse(InspectJson(**model));
  EXPECT_EQ(json["layers"][1]["memory"], "window_attention");
  EXPECT_EQ(json["layers"][1]["attention_window"], 10);
  EXPECT_FALSE(json["layers"][2].contains("attention_window"));
  EXPECT_THAT(InspectText(**model), HasSubstr("layer 1: window_attention, 4 heads of 8 (2 of keys "
                                              "and values), newest 10 tokens, 1408 bytes"));
}

TEST_F(ModelTest, RefusesHybridLayersThatDoNotFit) {
  const auto error = [&](const std::string& attn) { return ErrorWith("{\"attn\": " + attn + "}"); };
  EXPECT_THAT(error(R"({"layers": [1], "num_heads": 2})"),
              HasSubstr("config.json: attn: window_size is absent; attention over all tokens keeps "
                        "a state that grows with each; allowed: attention over the newest 1 to "));
  EXPECT_THAT(error(R"({"layers": [1], "num_heads": 2, "window_size": 0})"),
              HasSubstr("window_size is 0; allowed"));
  EXPECT_THAT(error(R"({"layers": [1], "window_size": 8})"), HasSubstr("num_heads is absent; "));
  EXPECT_THAT(error(R"({"layers": [1], "num_heads": 0, "window_size": 8})"),
              HasSubstr("num_heads is 0; allowed"));
  EXPECT_THAT(error(R"({"layers": [1], "num_heads": 3, "window_size": 8})"),
              HasSubstr("num_heads is 3; allowed: numbers that divide hidden_size = 32"));
  EXPECT_THAT(error(R"({"layers": [1], "num_heads": 32, "window_size": 8})"),
              HasSubstr("heads of an even size"));
  EXPECT_THAT(error(R"({"layers": [1], "num_heads": 4, "num_kv_heads": 3, "window_size": 8})"),
              HasSubstr("num_kv_heads is 3; allowed: a divisor of num_heads = 4"));
  EXPECT_THAT(error(R"({"num_heads": 4, "window_size": 8})"), HasSubstr("layers is absent; "));
  EXPECT_THAT(error(R"({"layers": [2], "num_heads": 4, "window_size": 8})"),
              HasSubstr("layers is [2]; allowed: a list of integers from 0 to 1"));
  EXPECT_THAT(error(R"([{"layers": [1], "num_heads": 2, "window_size": 8},
                        {"layers": [0, 1], "num_heads": 4, "window_size": 8}])"),
              HasSubstr("attn[1]: layers is [0,1]; allowed: each layer once, and 1 is there"));
  EXPECT_THAT(error(R"("all")"), HasSubstr("attn is \"all\"; allowed: an object"));
  EXPECT_THAT(ErrorWith(R"({"model_type": "rwkv7", "attn": {"layers": [0], "num_heads": 2,
                                                            "window_size": 8}})"),
              HasSubstr("allowed for rwkv7: attention in layers from 1 on"));
  nlohmann::json config = nlohmann::json::parse(kRetNet);
  config["attn"] = nlohmann::json::parse(R"({"layers": [1], "num_heads": 2, "window_size": 8})");
  Write(config.dump());
  EXPECT_THAT(error(R"({"layers": [1], "num_heads": 2, "window_size": 8, "qkv_bias": true})"),
              HasSubstr("tensor model.layers.1.attn.q_proj.bias is missing"));
}

TEST_F(ModelTest, NamesTheModeOfVla) {
  Write(R"({"model_type": "vla", "mode": "rls", "hidden_size": 32, "num_hidden_layers": 1,
            "num_heads": 2, "vocab_size": 40, "intermediate_size": 48})");
  const absl::StatusOr<std::unique_ptr<Model>> model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  const nlohmann::json layer = nlohmann::json::parse(InspectJson(**model))["layers"][0];
  EXPECT_EQ(layer["memory"], "vla_least_squares");
  EXPECT_EQ(layer["mode"], "rls");
  // A, how far it is stored, and two rows a token for a ring of 18, in lines of 64 bytes.
  EXPECT_EQ(layer["preconditioner_bytes"], 4 * 2 * 16 * 16 + 64 + 4 * 2 * 18 * 2 * 16);
  EXPECT_GT(layer["state_bytes"], layer["preconditioner_bytes"]);
  EXPECT_THAT(InspectText(**model), HasSubstr("layer 0: vla_least_squares (rls), 2 heads"));
  const std::vector<StatePlane> planes = (*model)->state_planes();
  ASSERT_EQ(planes.size(), 2u);
  EXPECT_EQ(planes[1].layer, 0);
  EXPECT_STREQ(planes[1].name, "preconditioner");
}

TEST_F(ModelTest, MissesABiasThatTheFormatHas) {
  Write(R"({"model_type": "vla", "hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2,
            "vocab_size": 40, "intermediate_size": 48})");
  EditHeader("attn.b_proj.bias", "attn.b_proj.bia_");
  EXPECT_THAT(Error(), HasSubstr("tensor model.layers.0.attn.b_proj.bias is missing; expected one "
                                 "of shape [2]"));
}

TEST_F(ModelTest, RefusesVlaOptionsOutOfRange) {
  const auto error = [&](const std::string& fields) {
    directory_.Write("config.json", R"({"model_type": "vla", "hidden_size": 32, "num_heads": 2,
                                        "vocab_size": 40, "num_hidden_layers": 1, )" +
                                        fields + "}");
    return Error();
  };
  EXPECT_THAT(error(R"("mode": "best")"), HasSubstr("mode is \"best\"; allowed: \"star\", "));
  EXPECT_THAT(error(R"("lambda0": 0)"), HasSubstr("lambda0 is 0; allowed"));
  EXPECT_THAT(error(R"("mu": 0)"), HasSubstr("mu is 0; allowed"));
  EXPECT_THAT(error(R"("mu": 1.01)"), HasSubstr("mu is 1.01; allowed"));
  EXPECT_THAT(error(R"("gamma": 0)"), HasSubstr("gamma is 0; allowed"));
  EXPECT_THAT(error(R"("feature_map": "relu")"), HasSubstr("feature_map is \"relu\"; allowed"));
  for (const char* field : {"num_kv_heads", "num_v_heads"}) {
    EXPECT_THAT(error("\"" + std::string(field) + "\": 1"),
                HasSubstr(std::string(field) + " is 1; each head has keys and values of its own"));
  }
  EXPECT_THAT(error(R"("mode": "v3")"),
              HasSubstr("feature_map is absent; with mode \"v3\", allowed: \"elu\""));
}

TEST_F(ModelTest, RefusesRwkv7SizesThatDoNotFit) {
  const auto error = [&](const std::string& fields) {
    directory_.Write("config.json", R"({"model_type": "rwkv7", "hidden_size": 32, "vocab_size": 40,
                                        "num_hidden_layers": 2, )" +
                                        fields + "}");
    return Error();
  };
  EXPECT_THAT(error(R"("head_dim": 24)"), HasSubstr("head_dim is 24; allowed: a divisor of"));
  EXPECT_THAT(error(R"("num_heads": 3, "head_dim": null)"),
              HasSubstr("num_heads is 3; allowed: a divisor of"));
  EXPECT_THAT(error(R"("head_dim": 16, "value_dim": 33)"),
              HasSubstr("value_dim is 33; allowed: the same multiple of the 2 heads"));
  EXPECT_THAT(error(R"("head_dim": 16, "value_dim": [32, 64])"),
              HasSubstr("value_dim is [32,64]; allowed: the same"));
  EXPECT_THAT(error(R"("head_dim": 16, "hidden_act": "swish")"), HasSubstr("allowed: \"sqrelu\""));
  EXPECT_THAT(error(R"("head_dim": 16, "norm_type": "dyt")"), HasSubstr("norm_type is \"dyt\""));
}

TEST_F(ModelTest, RefusesOldDeltaNetBlocks) {
  for (const char* field : {"norm_first", "share_conv_kernel", "use_rope"}) {
    const std::string config =
        std::string(R"({"model_type": "delta_net", "hidden_size": 32, "num_heads": 2, ")") + field +
        "\": true}";
    directory_.Write("config.json", config);
    EXPECT_THAT(Error(), HasSubstr(std::string(field) + " is true; "));
  }
}

TEST_F(ModelTest, NamesTheTensorThatDoesNotFit) {
  EXPECT_THAT(ErrorWith(R"({"vocab_size": 41})"),
              HasSubstr("tensor model.embeddings.weight has shape [40, 32]; expected [41, 32]"));
  EXPECT_THAT(ErrorWith(R"({"num_hidden_layers": 3})"),
              HasSubstr("tensor model.layers.2.attn_norm.weight is missing"));
  EXPECT_THAT(
      ErrorWith(R"({"num_hidden_layers": 1})"),
      AllOf(HasSubstr("unexpected tensors model.layers.1.attn.g_norm"), HasSubstr("and 3 more")));
  EXPECT_THAT(ErrorWith(R"({"tie_word_embeddings": true})"), "");
}

TEST_F(ModelTest, NamesTheTensorOfAnotherType) {
  EditHeader(R"("BF16","shape":[32,48])", R"("I16" ,"shape":[32,48])");
  EXPECT_THAT(Error(), HasSubstr("tensor model.layers.0.mlp.down_proj.weight has dtype I16; "
                                 "allowed: F32, F16, BF16"));
}

TEST_F(ModelTest, NamesTheMissingTensor) {
  EditHeader("model.layers.1.attn.q_proj.weight", "model.layers.1.attn.x_proj.weight");
  EXPECT_THAT(Error(), HasSubstr("tensor model.layers.1.attn.q_proj.weight is missing; expected "
                                 "one of shape [32, 32]"));
}

TEST_F(ModelTest, RefusesOptionsOutOfRange) {
  ModelOptions options;
  options.window.commit = 0;
  EXPECT_THAT(Error(options), HasSubstr("window is 0; allowed: 1 to"));
  options.window = {16, -1};
  EXPECT_THAT(Error(options), HasSubstr("rollback is -1"));
}

TEST_F(ModelTest, LogitsRefuseBadTokensAndChunks) {
  absl::StatusOr<std::unique_ptr<Model>> model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  const auto error = [&](const std::vector<int32_t>& tokens, int chunk) {
    return std::string(ComputeLogits(**model, *backend_, tokens, chunk).status().message());
  };
  EXPECT_EQ(error({1, 40}, 1), "tokens[1] is 40; allowed: 0 to 39");
  EXPECT_EQ(error({-1}, 1), "tokens[0] is -1; allowed: 0 to 39");
  EXPECT_THAT(error({}, 1), HasSubstr("tokens is empty"));
  EXPECT_EQ(error({1}, 0), "chunk is 0; allowed: 1 to 256");
  EXPECT_EQ(error({1}, 257), "chunk is 257; allowed: 1 to 256");
}

}  // namespace
}  // namespace evenflow
