// Kimi delta attention (arXiv 2510.26692) as flash-linear-attention saves it, model_type "kda".
#include "engine/model/families/family.h"

namespace evenflow {

MixerPlan PlanKdaMixer(MixerSource& source) {
  Config& config = source.config;
  GroupedDelta sizes;
  sizes.heads = Heads(config, 16);
  sizes.value_heads = ValueHeads(config, sizes.heads);
  sizes.key_dim = config.Int("head_dim", 128, 1, 8192);
  sizes.value_dim = ExpandedHead(config, sizes.key_dim, 1.0);

  MixerPlan mixer;
  Projections projections(source);
  AddGroupedDelta(sizes, &projections, &mixer.inputs);
  mixer.inputs.beta_column = projections.Add("b_proj", sizes.value_heads);
  projections.AddLowRank("f_proj", sizes.value_dim, sizes.value_heads * sizes.key_dim,
                         Bias::kOptional, &mixer.inputs.decay_column);
  projections.AddLowRank("g_proj", sizes.value_dim, sizes.value_heads * sizes.value_dim,
                         Bias::kRequired, &mixer.gate_column);
  projections.Load(&mixer);
  PlanGroupedDelta(source, sizes, sizes.key_dim, &mixer);
  mixer.output.gate_activation = Activation::kSigmoid;
  if (config.Has("lower_bound")) {
    mixer.inputs.decay.gate = DecayGate::kBounded;
    mixer.inputs.decay.low = static_cast<float>(config.Float("lower_bound", 0, -80, 0));
  }
  mixer.advance.memory = MemoryKind::kKimiDeltaRule;
  return mixer;
}

}  // namespace evenflow
