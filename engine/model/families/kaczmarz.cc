// Kaczmarz linear attention (arXiv 2605.08587), model_type "kla": Gated DeltaNet's layer with the
// names and options of model_type "gated_deltanet", but keys as they come and their length in the
// step: eta = sigmoid(b_proj x).
#include "engine/model/families/family.h"

namespace evenflow {

MixerPlan PlanKaczmarzMixer(MixerSource& source) {
  MixerPlan mixer = PlanGatedDeltaNetMixer(source);
  const std::string norm = source.config.Text("qk_norm", "relaxed_kaczmarz",
                                              {"relaxed_kaczmarz", "relaxed_kaczmarz_q_norm"});
  mixer.inputs.k_norm = HeadNorm::kNone;
  mixer.inputs.q_norm = norm == "relaxed_kaczmarz" ? HeadNorm::kNone : HeadNorm::kL2;
  mixer.advance.memory = MemoryKind::kKaczmarzDeltaRule;
  return mixer;
}

}  // namespace evenflow
