// RetNet (arXiv 2307.08621) as flash-linear-attention saves it, model_type "retnet".
#include <cmath>

#include "engine/model/families/family.h"

namespace evenflow {
namespace {

// ln(1 - 2^(-5 - h)) for each head.
std::vector<float> LogDecay(int heads) {
  std::vector<float> log_decay;
  for (int head = 0; head < heads; ++head) {
    log_decay.push_back(static_cast<float>(std::log1p(-std::exp2(-5.0 - head))));
  }
  return log_decay;
}

}  // namespace

MixerPlan PlanRetNetMixer(MixerSource& source) {
  Config& config = source.config;
  const int heads = Heads(config, 8);
  const int key_heads = GroupedHeads(config, "num_kv_heads", heads);
  const int key_dim = HeadSize(source, "expand_k", 1.0, heads);
  const int value_dim = HeadSize(source, "expand_v", 2.0, heads);
  if (key_dim % 2 != 0) {
    config.Fail("expand_k", "allowed: values that give an even key size (rotary positions)");
  }

  MixerPlan mixer;
  Projections projections(source);
  MemoryInputsArgs& inputs = mixer.inputs;
  inputs.q_column = projections.Add("q_proj", heads * key_dim);
  inputs.k_column = projections.Add("k_proj", key_heads * key_dim);
  inputs.v_column = projections.Add("v_proj", key_heads * value_dim);
  if (config.Bool("use_output_gate", true)) {
    mixer.gate_column = projections.Add("g_proj", heads * value_dim);
  }
  projections.Load(&mixer);

  // A state belongs to a query head, since the decay does: grouped keys are shared, states are not.
  inputs.shape = {heads, heads, key_heads, key_heads, key_dim, value_dim};
  inputs.raw_key_dim = key_dim;
  inputs.raw_value_dim = value_dim;
  inputs.q_map.map = inputs.k_map.map = ReadActivationMap(config);
  inputs.rotary_base = 10000;
  inputs.q_scale = 1 / std::sqrt(static_cast<float>(key_dim));
  mixer.advance.memory = MemoryKind::kRetention;
  mixer.advance.log_decay = source.weights.Constant(LogDecay(heads));
  PlanSwishGateOutput(source, heads, value_dim, &mixer);
  return mixer;
}

}  // namespace evenflow
