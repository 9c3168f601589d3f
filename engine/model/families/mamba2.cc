// Mamba-2 (arXiv 2405.21060) as flash-linear-attention saves it, model_type "mamba2".
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "engine/model/families/family.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

// H heads of P values each; G groups of heads share keys and queries of N channels.
struct Sizes {
  int heads, head_dim, groups, state_size;

  int inner() const { return heads * head_dim; }

  int mixed() const { return inner() + 2 * groups * state_size; }
};

Sizes ReadSizes(MixerSource& source) {
  Config& config = source.config;
  Sizes sizes{1, config.Int("head_dim", 64, 1, 8192), config.Int("n_groups", 1, 1, 4096),
              config.Int("state_size", 128, 1, 8192)};
  const double inner = source.hidden_size * config.Float("expand", 2, 1.0 / 1024, 64);
  // The model's own num_heads is never read.
  sizes.heads = static_cast<int>(inner) / sizes.head_dim;
  if (sizes.heads < 1 || sizes.inner() != static_cast<int>(inner)) {
    config.Fail("head_dim",
                absl::StrCat("allowed: a divisor of hidden_size * expand = ", std::floor(inner)));
    sizes.heads = 1;
  } else if (sizes.heads % sizes.groups != 0) {
    config.Fail("n_groups", absl::StrCat("allowed: a divisor of the ", sizes.heads,
                                         " heads, hidden_size * expand / head_dim"));
  }
  return sizes;
}

TokenMixArgs PlanConvolution(MixerSource& source, int channels) {
  TokenMixArgs args;
  args.channels = channels;
  args.taps = source.config.Int("conv_kernel", 4, 1, 64);
  args.weight = source.weights.Vector({{source.Name("conv1d.weight"), {channels, 1, args.taps}}});
  if (source.config.Bool("use_conv_bias", true)) {
    args.bias = source.weights.Vector({{source.Name("conv1d.bias"), {channels}}});
  }
  args.segments = {{channels, Activation::kSilu}};
  return args;
}

DecayGateArgs PlanTimeStep(MixerSource& source, int heads) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const absl::string_view field = source.config.NameOf("dt_limit", "time_step_limit");
  const std::vector<double> limit = source.config.Floats(field, {0, kInfinity}, 0, kInfinity);
  if (limit[0] > limit[1] || std::isinf(limit[0])) {
    source.config.Fail(field, "allowed: a finite lower limit and one that is not below it");
  }
  DecayGateArgs args;
  args.gate = DecayGate::kTimeStep;
  args.low = static_cast<float>(limit[0]);
  args.high = static_cast<float>(limit[1]);
  args.rate = source.weights.Vector({{source.Name("A_log"), {heads}}},
                                    [](float a_log) { return -std::exp(a_log); });
  args.bias = source.weights.Vector({{source.Name("dt_bias"), {heads}}});
  return args;
}

// D for each channel; files hold one number a head unless D_has_hdim.
const float* SkipWeight(MixerSource& source, const Sizes& sizes) {
  if (source.config.Bool("D_has_hdim", false)) {
    return source.weights.Vector({{source.Name("D"), {sizes.inner()}}});
  }
  std::vector<float> channels;
  for (const float d : source.weights.Numbers({source.Name("D"), {sizes.heads}})) {
    channels.insert(channels.end(), static_cast<size_t>(sizes.head_dim), d);
  }
  return source.weights.Constant(channels);
}

MemoryOutputArgs PlanOutput(MixerSource& source, const Sizes& sizes) {
  Config& config = source.config;
  MemoryOutputArgs args;
  args.heads = sizes.groups;
  args.value_dim = sizes.inner() / sizes.groups;
  args.skip_weight = SkipWeight(source, sizes);
  args.eps = source.norm_eps;
  args.gate_activation = Activation::kSilu;
  args.norm = OutputNorm::kNone;
  if (config.Bool(config.NameOf("rmsnorm", "rms_norm"), true)) {
    args.norm =
        config.Bool("norm_before_gate", false) ? OutputNorm::kBeforeGate : OutputNorm::kAfterGate;
    args.weight = source.weights.Vector({{source.Name("norm.weight"), {sizes.inner()}}});
    args.weight_per_head = true;
  }
  return args;
}

}  // namespace

MixerPlan PlanMamba2Mixer(MixerSource& source) {
  return PlanStateSpaceMixer(source, 0);
}

MixerPlan PlanStateSpaceMixer(MixerSource& source, int extra_columns) {
  Config& config = source.config;
  Weights& weights = source.weights;
  const Sizes sizes = ReadSizes(source);
  const int inner = sizes.inner();
  // [z | x B C | dt | extra]
  const int columns = inner + sizes.mixed() + sizes.heads * (1 + extra_columns);

  MixerPlan mixer;
  mixer.in_proj.w =
      weights.Matrix({{source.Name("in_proj.weight"), {columns, source.hidden_size}}});
  mixer.out_proj.w =
      weights.Matrix({{source.Name("out_proj.weight"), {source.hidden_size, inner}}});
  mixer.out_proj.add = true;
  if (config.Bool("use_bias", false)) {
    mixer.in_proj.bias = weights.Vector({{source.Name("in_proj.bias"), {columns}}});
    mixer.out_proj.bias = weights.Vector({{source.Name("out_proj.bias"), {source.hidden_size}}});
  }
  mixer.mix_column = inner;
  mixer.token_mix = PlanConvolution(source, sizes.mixed());

  MemoryInputsArgs& inputs = mixer.inputs;
  inputs.v_column = inner;
  inputs.k_column = inputs.v_column + inner;
  inputs.q_column = inputs.k_column + sizes.groups * sizes.state_size;
  inputs.decay_column = inputs.q_column + sizes.groups * sizes.state_size;
  inputs.shape = {sizes.heads, sizes.groups,     sizes.groups,
                  sizes.heads, sizes.state_size, sizes.head_dim};
  inputs.raw_key_dim = sizes.state_size;
  inputs.raw_value_dim = sizes.head_dim;
  inputs.decay = PlanTimeStep(source, sizes.heads);
  mixer.advance.memory = MemoryKind::kStateSpaceDuality;

  mixer.gate_column = 0;
  mixer.skip_column = inputs.v_column;
  mixer.output = PlanOutput(source, sizes);
  return mixer;
}

}  // namespace evenflow
