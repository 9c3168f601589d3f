// VLA (arXiv 2605.11196), model_type "vla": a linear attention that writes along directions which a
// second matrix has cleared of what is stored already (kernels/precondition.h). The layout is that
// of flash-linear-attention's models, with these fields (and defaults) and tensors of a layer:
//   num_heads (4), expand_k (1), expand_v (1)            attn.{q,k,v,o}_proj.weight
//   use_short_conv (true), conv_size (4), SiLU           attn.{q,k,v}_conv1d.weight
//   use_output_gate (true): norm(o) silu(g)              attn.g_proj.weight
//                                                        attn.o_norm.weight [d_v]
//   use_write_gate (true): b = sigmoid, else 1           attn.b_proj.weight, .bias
//   mode ("star"; sym, unit, exact, rls, v3)             v3: attn.u_proj.weight [heads, d_k, d_k]
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
  MixerPlan mixer;
  Projections projections(source);
  const ConvolvedHeads sizes = AddConvolvedHeads(source, &projections, &mixer);
  const int heads = sizes.heads;
  const int key_dim = sizes.key_dim;
  PreconditionArgs& precondition = mixer.precondition.emplace();
  precondition.preconditioner = ReadPreconditioner(config, heads, key_dim);
  const bool v3 = precondition.preconditioner.mode == PreconditionMode::kV3;

  MemoryInputsArgs& inputs = mixer.inputs;
  if (!v3 && config.Bool("use_write_gate", true)) {
    inputs.beta_column = projections.Add("b_proj", heads, Bias::kRequired);
  }
  projections.Load(&mixer);
  PlanConvolvedHeads(source, sizes, &mixer);

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
  return mixer;
}

}  // namespace evenflow
