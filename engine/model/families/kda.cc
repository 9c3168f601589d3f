// Kimi delta attention (arXiv 2510.26692) as flash-linear-attention saves it, model_type "kda".
#include <cmath>

#include "engine/model/families/family.h"

namespace evenflow {

MixerPlan PlanKdaMixer(MixerSource& source) {
  Config& config = source.config;
  const int heads = Heads(config, 16);
  const int value_heads = ValueHeads(config, heads);
  const int key_dim = config.Int("head_dim", 128, 1, 8192);
  const int value_dim = ExpandedHead(config, key_dim, 1.0);

  MixerPlan mixer;
  Projections projections(source);
  MemoryInputsArgs& inputs = mixer.inputs;
  inputs.q_column = projections.Add("q_proj", heads * key_dim);
  inputs.k_column = projections.Add("k_proj", heads * key_dim);
  inputs.v_column = projections.Add("v_proj", value_heads * value_dim);
  inputs.beta_column = projections.Add("b_proj", value_heads);
  projections.AddLowRank("f_proj", value_dim, value_heads * key_dim, &inputs.decay_column);
  projections.AddLowRank("g_proj", value_dim, value_heads * value_dim, &mixer.gate_column);
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
  if (config.Has("lower_bound")) {
    inputs.decay.gate = DecayGate::kBounded;
    inputs.decay.low = static_cast<float>(config.Float("lower_bound", 0, -80, 0));
  }
  inputs.decay.rate = source.weights.Vector({{source.Name("A_log"), {value_heads}}},
                                            [](float a_log) { return -std::exp(a_log); });
  inputs.decay.bias = source.weights.Vector({{source.Name("dt_bias"), {value_heads * key_dim}}});
  inputs.beta_scale = config.Bool("allow_neg_eigval", false) ? 2 : 1;
  mixer.advance.memory = MemoryKind::kKimiDeltaRule;

  mixer.output = PlanHeadNorm(source, value_heads, value_dim, {"o_norm.weight"});
  mixer.output.gate_activation = Activation::kSigmoid;
  mixer.out_proj = PlanOutProjection(source, value_heads * value_dim);
  return mixer;
}

}  // namespace evenflow
