// Gated DeltaNet (arXiv 2412.06464) as flash-linear-attention saves it, model_type
// "gated_deltanet".
#include "engine/model/families/family.h"

namespace evenflow {

MixerPlan PlanGatedDeltaNetMixer(MixerSource& source) {
  Config& config = source.config;
  GroupedDelta sizes;
  sizes.heads = Heads(config, 6);
  sizes.value_heads = ValueHeads(config, sizes.heads);
  sizes.key_dim = config.Int("head_dim", 256, 1, 8192);
  sizes.value_dim = ExpandedHead(config, sizes.key_dim, 2.0);

  MixerPlan mixer;
  Projections projections(source);
  AddGroupedDelta(sizes, &projections, &mixer.inputs);
  if (config.Bool("use_gate", true)) {
    mixer.gate_column = projections.Add("g_proj", sizes.value_heads * sizes.value_dim);
  }
  mixer.inputs.decay_column = projections.Add("a_proj", sizes.value_heads);
  mixer.inputs.beta_column = projections.Add("b_proj", sizes.value_heads);
  projections.Load(&mixer);
  PlanGroupedDelta(source, sizes, 1, &mixer);
  mixer.output.gate_activation = Activation::kSilu;
  source.weights.Ignore(source.Name("D"));  // in files of early 2025, never used
  mixer.advance.memory = MemoryKind::kGatedDeltaRule;
  return mixer;
}

}  // namespace evenflow
