// Log-linear attention with adaptive decay (arXiv 2605.06946), model_type "log_linear".
#include <cmath>
#include <string>

#include "engine/model/families/family.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

constexpr int kMaxLevels = 48;

// lambda from the columns that l_proj gives, by an MLP that the heads share or by a factor each.
void PlanLevelWeights(MixerSource& source, int heads, int levels, LevelWeightsArgs* args) {
  Config& config = source.config;
  Weights& weights = source.weights;
  if (config.Text("lambda_mode", "adaptive", {"adaptive", "fixed"}) == "fixed") {
    args->scale = weights.Vector({{source.Name("L"), {heads, levels}}});
    return;
  }
  const int hidden = args->hidden = config.Int("lambda_hidden", 64, 1, 8192);
  args->w1 = weights.Vector({{source.Name("lambda_mlp.0.weight"), {hidden, levels}}});
  args->b1 = weights.Vector({{source.Name("lambda_mlp.0.bias"), {hidden}}});
  args->w2 = weights.Vector({{source.Name("lambda_mlp.2.weight"), {levels, hidden}}});
  args->b2 = weights.Vector({{source.Name("lambda_mlp.2.bias"), {levels}}});
}

}  // namespace

MixerPlan PlanLogLinearMixer(MixerSource& source) {
  Config& config = source.config;
  const bool delta = config.Text("transition", "scalar", {"scalar", "delta"}) == "delta";
  const int levels = config.Int("num_levels", 15, 1, kMaxLevels);

  MixerPlan mixer;
  Projections projections(source);
  MemoryInputsArgs& inputs = mixer.inputs;
  const ConvolvedHeads sizes = AddConvolvedHeads(source, &projections, &mixer);
  const int heads = sizes.heads;
  inputs.decay_column = projections.Add("a_proj", heads);
  if (delta) {
    inputs.beta_column = projections.Add("b_proj", heads);
  }
  inputs.level_weights.column = projections.Add("l_proj", heads * levels);
  projections.Load(&mixer);
  PlanConvolvedHeads(source, sizes, &mixer);

  inputs.shape.banks = levels;
  PlanLevelWeights(source, heads, levels, &inputs.level_weights);
  if (config.Text("feature_map", "", {"elu"}) == "elu") {
    inputs.q_map.map = inputs.k_map.map = FeatureMap::kElu1;
  }
  const bool by_default = delta && !config.IsNull("qk_norm");
  if (config.Text("qk_norm", by_default ? "l2" : "", {"l2"}) == "l2") {
    inputs.q_norm = inputs.k_norm = HeadNorm::kL2;
  }
  inputs.q_scale = 1 / std::sqrt(static_cast<float>(sizes.key_dim));
  inputs.decay.rate = source.weights.Vector({{source.Name("A_log"), {heads}}},
                                            [](float a_log) { return -std::exp(a_log); });
  inputs.decay.bias = source.weights.Vector({{source.Name("dt_bias"), {heads}}});
  mixer.advance.memory = delta ? MemoryKind::kLogLinearDeltaRule : MemoryKind::kLogLinearAttention;
  mixer.detail = absl::StrCat(levels, " levels, the top one keeps what outgrows it");
  return mixer;
}

}  // namespace evenflow
