// Gated linear attention (arXiv 2312.06635) as flash-linear-attention saves it, model_type "gla".
#include <cmath>
#include <limits>

#include "engine/model/families/family.h"

namespace evenflow {

MixerPlan PlanGlaMixer(MixerSource& source) {
  constexpr int kGateRank = 16;  // a constant of the model's code
  Config& config = source.config;
  const int heads = Heads(config, 4);
  const int key_heads = GroupedHeads(config, "num_kv_heads", heads);
  const int key_dim = HeadSize(source, "expand_k", 0.5, heads);
  const int value_dim = HeadSize(source, "expand_v", 1.0, heads);

  MixerPlan mixer;
  Projections projections(source);
  MemoryInputsArgs& inputs = mixer.inputs;
  inputs.q_column = projections.Add("q_proj", heads * key_dim);
  inputs.k_column = projections.Add("k_proj", key_heads * key_dim);
  inputs.v_column = projections.Add("v_proj", key_heads * value_dim);
  if (config.Bool("use_output_gate", true)) {
    mixer.gate_column = projections.Add("g_proj", heads * value_dim);
  }
  projections.AddLowRank("gk_proj", kGateRank, key_heads * key_dim, Bias::kRequired,
                         &inputs.decay_column);
  projections.Load(&mixer);
  if (config.Bool("use_short_conv", false)) {
    mixer.token_mix =
        PlanShortConvolution(source, true,
                             {{"q_conv1d", {heads * key_dim, Activation::kSilu}},
                              {"k_conv1d", {key_heads * key_dim, Activation::kSilu}},
                              {"v_conv1d", {key_heads * value_dim, Activation::kSilu}}});
  }

  // The decay belongs to a key head, so the queries of its group share one state.
  inputs.shape = {key_heads, heads, key_heads, key_heads, key_dim, value_dim};
  inputs.raw_key_dim = key_dim;
  inputs.raw_value_dim = value_dim;
  inputs.q_map.map = inputs.k_map.map = ReadActivationMap(config);
  inputs.q_scale = 1 / std::sqrt(static_cast<float>(key_dim));
  inputs.decay.gate = DecayGate::kLogSigmoid;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  inputs.decay.low = static_cast<float>(config.Float("clamp_min", -kInfinity, -kInfinity, 0));
  mixer.advance.memory = MemoryKind::kGatedLinearAttention;
  PlanSwishGateOutput(source, heads, value_dim, &mixer);
  return mixer;
}

}  // namespace evenflow
