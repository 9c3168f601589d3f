// DeltaNet (arXiv 2406.06484) as flash-linear-attention saves it, model_type "delta_net".
#include <cmath>

#include "engine/model/families/family.h"

namespace evenflow {
namespace {

Activation ReadActivation(Config& config) {
  const std::string name =
      config.Text("qk_activation", "silu", {"silu", "relu", "elu", "identity"});
  return name == "silu"   ? Activation::kSilu
         : name == "relu" ? Activation::kRelu
         : name == "elu"  ? Activation::kElu1
                          : Activation::kNone;
}

}  // namespace

MixerPlan PlanDeltaNetMixer(MixerSource& source) {
  Config& config = source.config;
  config.Refuse("norm_first",
                "this block layout of files from before February 2025 is not supported");
  config.Refuse("share_conv_kernel", "shared convolutions are not supported");
  config.Refuse("use_rope", "rotary positions are not supported here");
  const int heads = Heads(config, 16);
  const int key_dim = HeadSize(source, "expand_k", 1.0, heads);
  const int value_dim = HeadSize(source, "expand_v", 1.0, heads);

  MixerPlan mixer;
  Projections projections(source);
  MemoryInputsArgs& inputs = mixer.inputs;
  inputs.q_column = projections.Add("q_proj", heads * key_dim);
  inputs.k_column = projections.Add("k_proj", heads * key_dim);
  inputs.v_column = projections.Add("v_proj", heads * value_dim);
  if (config.Bool("use_gate", false)) {
    mixer.gate_column = projections.Add("g_proj", heads * value_dim);
  }
  if (config.Bool("use_beta", true)) {
    inputs.beta_column = projections.Add("b_proj", heads);
  }
  projections.Load(&mixer);
  const Activation activation = ReadActivation(config);
  mixer.token_mix = PlanShortConvolution(source, config.Bool("use_short_conv", true),
                                         {{"q_conv1d", {heads * key_dim, activation}},
                                          {"k_conv1d", {heads * key_dim, activation}},
                                          {"v_conv1d", {heads * value_dim, Activation::kSilu}}});

  inputs.shape = {heads, heads, heads, heads, key_dim, value_dim};
  inputs.raw_key_dim = key_dim;
  inputs.raw_value_dim = value_dim;
  const bool l2 = config.Text("qk_norm", "l2", {"l2", "sum"}) == "l2";
  inputs.q_norm = inputs.k_norm = l2 ? HeadNorm::kL2 : HeadNorm::kSum;
  inputs.q_scale = 1 / std::sqrt(static_cast<float>(key_dim));
  inputs.beta_scale = config.Bool("allow_neg_eigval", false) ? 2 : 1;
  mixer.advance.memory = MemoryKind::kDeltaRule;

  mixer.output = PlanHeadNorm(source, heads, value_dim, {"o_norm.weight"});
  mixer.output.gate_activation = Activation::kSilu;
  mixer.out_proj = PlanOutProjection(source, heads * value_dim);
  return mixer;
}

}  // namespace evenflow
