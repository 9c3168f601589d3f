// VORT (arXiv 2605.08966), model_type "vort": power laws with exponents that the tokens choose.
#include "engine/model/families/family.h"

namespace evenflow {

MixerPlan PlanVortMixer(MixerSource& source) {
  constexpr float kNormalizerFloor = 1e-6f;
  Config& config = source.config;
  config.Text("feature_map", "elu", {"elu"});
  const bool normalizer = config.Bool("normalizer", true);

  MixerPlan mixer;
  Projections projections(source);
  MemoryInputsArgs& inputs = mixer.inputs;
  const ConvolvedHeads sizes = AddConvolvedHeads(source, &projections, &mixer);
  inputs.beta_column = projections.Add("alpha_proj", sizes.heads, Bias::kRequired);
  projections.Load(&mixer);
  PlanConvolvedHeads(source, sizes, &mixer);

  PowerLawTarget& power_law = mixer.power_law.emplace();
  power_law.alpha_min = config.Float("alpha_min", 0.05, 1e-3, 0.99);
  power_law.horizon = config.Float("horizon", 1e6, 1, 1e12);
  power_law.epsilon = config.Float("epsilon", 1e-3, 1e-9, 0.5);
  inputs.beta_low = static_cast<float>(power_law.alpha_min);
  inputs.q_map.map = inputs.k_map.map = FeatureMap::kElu1;
  inputs.ones_column = normalizer;
  inputs.shape.value_dim += normalizer ? 1 : 0;
  mixer.output.normalizer = normalizer;
  mixer.output.normalizer_floor = kNormalizerFloor;
  mixer.advance.memory = MemoryKind::kVort;
  return mixer;
}

}  // namespace evenflow
