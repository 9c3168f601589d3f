// What log-linear attention, VORT and VLA have in common around their memories.
#include "engine/model/families/family.h"

#include "absl/strings/str_cat.h"

namespace evenflow {

ConvolvedHeads AddConvolvedHeads(MixerSource& source, Projections* projections, MixerPlan* mixer) {
  ConvolvedHeads sizes;
  sizes.heads = Heads(source.config, 4);
  for (const char* field : {"num_kv_heads", "num_v_heads"}) {
    if (source.config.Int(field, sizes.heads, 1, 1 << 12) != sizes.heads) {
      source.config.Fail(field, absl::StrCat("each head has keys and values of its own; allowed: "
                                             "num_heads = ",
                                             sizes.heads));
    }
  }
  sizes.key_dim = HeadSize(source, "expand_k", 1.0, sizes.heads);
  sizes.value_dim = HeadSize(source, "expand_v", 1.0, sizes.heads);
  mixer->inputs.q_column = projections->Add("q_proj", sizes.heads * sizes.key_dim);
  mixer->inputs.k_column = projections->Add("k_proj", sizes.heads * sizes.key_dim);
  mixer->inputs.v_column = projections->Add("v_proj", sizes.heads * sizes.value_dim);
  if (source.config.Bool("use_output_gate", true)) {
    mixer->gate_column = projections->Add("g_proj", sizes.heads * sizes.value_dim);
  }
  return sizes;
}

void PlanConvolvedHeads(MixerSource& source, const ConvolvedHeads& sizes, MixerPlan* mixer) {
  const auto [heads, key_dim, value_dim] = sizes;
  if (source.config.Bool("use_short_conv", true)) {
    mixer->token_mix = PlanShortConvolution(source, true,
                                            {{"q_conv1d", {heads * key_dim, Activation::kSilu}},
                                             {"k_conv1d", {heads * key_dim, Activation::kSilu}},
                                             {"v_conv1d", {heads * value_dim, Activation::kSilu}}});
  }
  MemoryInputsArgs& inputs = mixer->inputs;
  inputs.shape = {heads, heads, heads, heads, key_dim, value_dim};
  inputs.raw_key_dim = key_dim;
  inputs.raw_value_dim = value_dim;
  mixer->output = PlanHeadNorm(source, heads, value_dim, {"o_norm.weight"});
  mixer->output.gate_activation = Activation::kSilu;
  mixer->out_proj = PlanOutProjection(source, heads * value_dim);
}

}  // namespace evenflow
