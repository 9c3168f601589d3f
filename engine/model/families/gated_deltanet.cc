// Gated DeltaNet (arXiv 2412.06464) as flash-linear-attention saves it, model_type
// "gated_deltanet".
#include <cmath>

#include "engine/model/families/family.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

// head_dim * expand_v; an error unless that is an integer.
int ReadValueDim(Config& config, int key_dim) {
  const double expand = config.Float("expand_v", 2.0, 1.0 / 1024, 16);
  const double size = key_dim * expand;
  if (std::round(size) < 1 || std::abs(size - std::round(size)) > 1e-5 * size) {
    config.Fail("expand_v", absl::StrCat("allowed: values that make head_dim * expand_v = ", size,
                                         " an integer"));
    return 1;
  }
  return static_cast<int>(std::round(size));
}

int ReadValueHeads(Config& config, int heads) {
  const int value_heads = config.Int("num_v_heads", heads, 1, 4096);
  if (value_heads % heads != 0) {
    config.Fail("num_v_heads", absl::StrCat("allowed: a multiple of num_heads = ", heads));
  }
  return value_heads;
}

}  // namespace

MixerPlan PlanGatedDeltaNetMixer(MixerSource& source) {
  Config& config = source.config;
  const int heads = Heads(config, 6);
  const int value_heads = ReadValueHeads(config, heads);
  const int key_dim = config.Int("head_dim", 256, 1, 8192);
  const int value_dim = ReadValueDim(config, key_dim);

  MixerPlan mixer;
  Projections projections(source);
  MemoryInputsArgs& inputs = mixer.inputs;
  inputs.q_column = projections.Add("q_proj", heads * key_dim);
  inputs.k_column = projections.Add("k_proj", heads * key_dim);
  inputs.v_column = projections.Add("v_proj", value_heads * value_dim);
  if (config.Bool("use_gate", true)) {
    mixer.gate_column = projections.Add("g_proj", value_heads * value_dim);
  }
  inputs.decay_column = projections.Add("a_proj", value_heads);
  inputs.beta_column = projections.Add("b_proj", value_heads);
  mixer.in_proj = projections.Load();
  mixer.token_mix = PlanShortConvolution(source, config.Bool("use_short_conv", true),
                                         {{heads * key_dim, Activation::kSilu},
                                          {heads * key_dim, Activation::kSilu},
                                          {value_heads * value_dim, Activation::kSilu}});

  inputs.shape = {value_heads, heads, heads, value_heads, key_dim, value_dim};
  inputs.raw_key_dim = key_dim;
  inputs.raw_value_dim = value_dim;
  inputs.q_norm = inputs.k_norm = HeadNorm::kL2;
  inputs.q_scale = 1 / std::sqrt(static_cast<float>(key_dim));
  inputs.decay_rate = source.weights.Vector({{source.Name("A_log"), {value_heads}}},
                                            [](float a_log) { return -std::exp(a_log); });
  inputs.decay_bias = source.weights.Vector({{source.Name("dt_bias"), {value_heads}}});
  inputs.beta_scale = config.Bool("allow_neg_eigval", false) ? 2 : 1;
  source.weights.Ignore(source.Name("D"));  // in files of early 2025, never used
  mixer.advance.memory = MemoryKind::kGatedDeltaRule;

  mixer.output = PlanHeadNorm(source, value_heads, value_dim, {"o_norm.weight"});
  mixer.output.gate_activation = Activation::kSilu;
  mixer.out_proj = PlanOutProjection(source, value_heads * value_dim);
  return mixer;
}

}  // namespace evenflow
