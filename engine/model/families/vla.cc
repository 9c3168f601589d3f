// VLA (arXiv 2605.11196), model_type "vla": a linear attention that writes along directions which a
// second matrix has cleared of what is stored already (kernels/precondition.h). The layout is that
// of flash-linear-attention's models, with these fields (and defaults) and tensors of a layer:
//   num_heads (4), expand_k (1), expand_v (1)            attn.{q,k,v,o}_proj.weight
//   use_short_conv (true), conv_size (4), SiLU           attn.{q,k,v}_conv1d.weight
//   use_output_gate (true): norm(o) silu(g)              attn.g_proj.weight; attn.o_norm.weight
//   [d_v] use_write_gate (true): b = sigmoid, else 1           attn.b_proj.weight, .bias mode
//   ("star"; sym, unit, exact, rls, v3)             v3: attn.u_proj.weight [heads, d_k, d_k]
//   feature_map (null; "elu": elu(x) + 1 on q and k)
//   lambda0 (0.5), mu (0.99), gamma (1): S <- gamma S before each token
// v3 needs feature_map "elu" and uses neither mu, gamma nor the write gate.
#include <cmath>

#include "engine/model/families/family.h"

namespace evenflow {
namespace {

Preconditioner ReadPreconditioner(Config& config, int heads, int key_dim) {
  Preconditioner of;
  const std::string name =
      config.Text("mode", "star", {"star", "sym", "unit", "exact", "rls", "v3"});
  for (const PreconditionMode mode : kPreconditionModes) {
    of.mode = name == Name(mode) ? mode : of.mode;
  }
  of.lambda0 = config.Float("lambda0", 0.5, 1e-6, 1e6);
  of.mu = config.Float("mu", 0.99, 0.01, 1);
  of.heads = heads;
  of.key_dim = key_dim;
  return of;
}

}  // namespace

MixerPlan PlanVlaMixer(MixerSource& source) {
  Config& config = source.config;
  const int heads = Heads(config, 4);
  const int key_dim = HeadSize(source, "expand_k", 1.0, heads);
  const int value_dim = HeadSize(source, "expand_v", 1.0, heads);
  MixerPlan mixer;
  PreconditionArgs& precondition = mixer.precondition.emplace();
  precondition.preconditioner = ReadPreconditioner(config, heads, key_dim);
  const bool v3 = precondition.preconditioner.mode == PreconditionMode::kV3;

  Projections projections(source);
  MemoryInputsArgs& inputs = mixer.inputs;
  inputs.q_column = projections.Add("q_proj", heads * key_dim);
  inputs.k_column = projections.Add("k_proj", heads * key_dim);
  inputs.v_column = projections.Add("v_proj", heads * value_dim);
  if (config.Bool("use_output_gate", true)) {
    mixer.gate_column = projections.Add("g_proj", heads * value_dim);
  }
  if (!v3 && config.Bool("use_write_gate", true)) {
    inputs.beta_column = projections.Add("b_proj", heads);
  }
  projections.Load(&mixer);
  if (config.Bool("use_short_conv", true)) {
    mixer.token_mix = PlanShortConvolution(source, true,
                                           {{"q_conv1d", {heads * key_dim, Activation::kSilu}},
                                            {"k_conv1d", {heads * key_dim, Activation::kSilu}},
                                            {"v_conv1d", {heads * value_dim, Activation::kSilu}}});
  }

  inputs.shape = {heads, heads, heads, heads, key_dim, value_dim};
  inputs.raw_key_dim = key_dim;
  inputs.raw_value_dim = value_dim;
  const bool elu = config.Text("feature_map", "", {"elu"}) == "elu";
  if (v3) {
    if (!elu) {
      config.Fail("feature_map", "with mode \"v3\", allowed: \"elu\"");
    }
    source.weights.Ignore(source.Name("b_proj.weight"));
    source.weights.Ignore(source.Name("b_proj.bias"));
    precondition.u_weight =
        source.weights.Vector({{source.Name("u_proj.weight"), {heads, key_dim, key_dim}}});
  } else if (elu) {
    inputs.q_map.map = inputs.k_map.map = FeatureMap::kElu1;
  }

  mixer.advance.memory = MemoryOf(precondition.preconditioner.mode);
  const double gamma = v3 ? 1.0 : config.Float("gamma", 1.0, 1e-30, 1);
  mixer.advance.log_decay = source.weights.Constant(
      std::vector<float>(static_cast<size_t>(heads), static_cast<float>(std::log(gamma))));

  mixer.output = PlanHeadNorm(source, heads, value_dim, {"o_norm.weight"});
  mixer.output.gate_activation = Activation::kSilu;
  mixer.out_proj = PlanOutProjection(source, heads * value_dim);
  return mixer;
}

}  // namespace evenflow
