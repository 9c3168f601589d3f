// Log-linear Mamba-2 as flash-linear-attention saves it, model_type "log_linear_mamba2": Mamba-2
// whose states are read by levels, with weights softplus(L x); what outgrows the top level is
// forgotten.
#include "engine/model/families/family.h"

#include "absl/strings/str_cat.h"

namespace evenflow {

MixerPlan PlanLogLinearMamba2Mixer(MixerSource& source) {
  constexpr int kLevels = 15;
  MixerPlan mixer = PlanStateSpaceMixer(source, kLevels);
  MemoryInputsArgs& inputs = mixer.inputs;
  const int heads = inputs.shape.heads;
  inputs.shape.banks = kLevels;
  inputs.level_weights.column = inputs.decay_column + heads;
  inputs.level_weights.scale = source.weights.Vector({{source.Name("L"), {heads, kLevels}}});
  mixer.advance.memory = MemoryKind::kLogLinearAttention;
  mixer.advance.forgets_top = true;
  mixer.detail = absl::StrCat(kLevels, " levels, what outgrows the top one is forgotten");
  return mixer;
}

}  // namespace evenflow
