// Gated DeltaNet (arXiv 2412.06464) as flash-linear-attention saves it, model_type
// "gated_deltanet".
#include <cmath>

#include "engine/model/families/family.h"

namespace evenflow {
MixerPlan PlanGatedDeltaNetMixer(MixerSource& source) {
  Config& config = source.config;
  const int heads = Heads(config, 6);
  const int value_heads = ValueHeads(config, heads);
  const int key_dim = config.Int("head_dim", 256, 1, 8192);
  const int value_dim = ExpandedHead(config, key_dim, 2.0);

  MixerPlan mixer;
  Projections projections(source);
  MemoryInputsArgs& inputs = mixer.inputs;
  inputs.q_column = projections.Add("q_proj", heads * key_dim);
  inputs.k_column = projections.Add("k_proj", heads * key_dim);
  inputs.v_column = projections.Add("v_proj", value_heads * value_dim);
  if (config.Bool("use_gate", true)) {
    mixer.gate_column = projections.Add("g_proj", value_heads * value_dim);
  }
  inputs.decay_column = projections.Add("a_proj", value_heads);
  inputs.beta_column = projections.Add("b_proj", value_heads);
  projections.Load(&mixer);
  mixer.token_mix =
      PlanShortConvolution(source, config.Bool("use_short_conv", true),
                           {{"q_conv1d", {heads * key_dim, Activation::kSilu}},
                            {"k_conv1d", {heads * key_dim, Activation::kSilu}},
                            {"v_conv1d", {value_heads * value_dim, Activation::kSilu}}});

  inputs.shape = {value_heads, heads, heads, value_heads, key_dim, value_dim};
  inputs.raw_key_dim = key_dim;
  inputs.raw_value_dim = value_dim;
  inputs.q_norm = inputs.k_norm = HeadNorm::kL2;
  inputs.q_scale = 1 / std::sqrt(static_cast<float>(key_dim));
  inputs.decay.rate = source.weights.Vector({{source.Name("A_log"), {value_heads}}},
                                            [](float a_log) { return -std::exp(a_log); });
  inputs.decay.bias = source.weights.Vector({{source.Name("dt_bias"), {value_heads}}});
  inputs.beta_scale = config.Bool("allow_neg_eigval", false) ? 2 : 1;
  source.weights.Ignore(source.Name("D"));  // in files of early 2025, never used
  mixer.advance.memory = MemoryKind::kGatedDeltaRule;

  mixer.output = PlanHeadNorm(source, value_heads, value_dim, {"o_norm.weight"});
  mixer.output.gate_activation = Activation::kSilu;
  mixer.out_proj = PlanOutProjection(source, value_heads * value_dim);
  return mixer;
}

}  // namespace evenflow
