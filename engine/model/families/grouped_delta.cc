// What Gated DeltaNet and KDA share: delta rules whose value heads come in groups of a key head.
#include <cmath>

#include "engine/model/families/family.h"

namespace evenflow {

void AddGroupedDelta(const GroupedDelta& sizes, Projections* projections,
                     MemoryInputsArgs* inputs) {
  inputs->q_column = projections->Add("q_proj", sizes.heads * sizes.key_dim);
  inputs->k_column = projections->Add("k_proj", sizes.heads * sizes.key_dim);
  inputs->v_column = projections->Add("v_proj", sizes.value_heads * sizes.value_dim);
}

void PlanGroupedDelta(MixerSource& source, const GroupedDelta& sizes, int decay_channels,
                      MixerPlan* mixer) {
  const auto [heads, value_heads, key_dim, value_dim] = sizes;
  Config& config = source.config;
  mixer->token_mix =
      PlanShortConvolution(source, config.Bool("use_short_conv", true),
                           {{"q_conv1d", {heads * key_dim, Activation::kSilu}},
                            {"k_conv1d", {heads * key_dim, Activation::kSilu}},
                            {"v_conv1d", {value_heads * value_dim, Activation::kSilu}}});

  MemoryInputsArgs& inputs = mixer->inputs;
  inputs.shape = {value_heads, heads, heads, value_heads, key_dim, value_dim};
  inputs.raw_key_dim = key_dim;
  inputs.raw_value_dim = value_dim;
  inputs.q_norm = inputs.k_norm = HeadNorm::kL2;
  inputs.q_scale = 1 / std::sqrt(static_cast<float>(key_dim));
  inputs.decay.rate = source.weights.Vector({{source.Name("A_log"), {value_heads}}},
                                            [](float a_log) { return -std::exp(a_log); });
  inputs.decay.bias =
      source.weights.Vector({{source.Name("dt_bias"), {value_heads * decay_channels}}});
  inputs.beta_scale = config.Bool("allow_neg_eigval", false) ? 2 : 1;

  mixer->output = PlanHeadNorm(source, value_heads, value_dim, {"o_norm.weight"});
  mixer->out_proj = PlanOutProjection(source, value_heads * value_dim);
}

}  // namespace evenflow
