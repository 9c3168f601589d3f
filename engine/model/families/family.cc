#include "engine/model/families/family.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace evenflow {

int Heads(Config& config, int fallback) {
  constexpr int kMaxHeads = 4096;
  return config.Int(config.NameOf("num_heads", "num_attention_heads"), fallback, 1, kMaxHeads);
}

int GroupedHeads(Config& config, absl::string_view field, int heads) {
  const int grouped = config.Int(field, heads, 1, heads);
  if (heads % grouped != 0) {
    config.Fail(field, absl::StrCat("allowed: a divisor of num_heads = ", heads));
    return heads;
  }
  return grouped;
}

int HeadSize(MixerSource& source, absl::string_view expand_field, double fallback, int heads) {
  const double expand = source.config.Float(expand_field, fallback, 1.0 / 1024, 16);
  const double total = source.hidden_size * expand;
  const double rounded = std::round(total);
  // The factor may have lost its last digits on the way through JSON.
  if (rounded < 1 || std::abs(total - rounded) > 1e-5 * total ||
      static_cast<int>(rounded) % heads != 0) {
    source.config.Fail(expand_field,
                       absl::StrCat("allowed: values that make hidden_size * ", expand_field, " = ",
                                    total, " a multiple of num_heads = ", heads));
    return 1;
  }
  return static_cast<int>(rounded) / heads;
}

int ValueHeads(Config& config, int heads) {
  const int value_heads = config.Int("num_v_heads", heads, 1, 4096);
  if (value_heads % heads != 0) {
    config.Fail("num_v_heads", absl::StrCat("allowed: a multiple of num_heads = ", heads));
  }
  return value_heads;
}

int ExpandedHead(Config& config, int key_dim, double fallback) {
  const double expand = config.Float("expand_v", fallback, 1.0 / 1024, 16);
  const double size = key_dim * expand;
  if (std::round(size) < 1 || std::abs(size - std::round(size)) > 1e-5 * size) {
    config.Fail("expand_v", absl::StrCat("allowed: values that make head_dim * expand_v = ", size,
                                         " an integer"));
    return 1;
  }
  return static_cast<int>(std::round(size));
}

int Projections::Add(absl::string_view name, int rows, Bias bias) {
  const int column = columns_;
  columns_ += rows;
  weights_.push_back({source_.Name(absl::StrCat(name, ".weight")), {rows, source_.hidden_size}});
  if (bias != Bias::kNone) {
    const bool optional = bias == Bias::kOptional;
    biases_.push_back({source_.Name(absl::StrCat(name, ".bias")), {rows}, optional});
  }
  return column;
}

void Projections::AddLowRank(absl::string_view name, int rank, int rows, Bias bias, int* column) {
  const int from = Add(absl::StrCat(name, ".0"), rank);
  low_rank_.push_back({std::string(name), from, rank, rows, bias, column});
}

void Projections::Load(MixerPlan* mixer) {
  mixer->in_proj.w = source_.weights.Matrix(weights_);
  mixer->in_proj.bias = source_.weights.Vector(biases_);
  int column = columns_;
  for (const LowRank& part : low_rank_) {
    InnerProjection inner{part.from, column, {}};
    const std::string name = source_.Name(part.name + ".1");
    inner.matmul.w = source_.weights.Matrix({{name + ".weight", {part.rows, part.rank}}});
    const bool optional = part.bias == Bias::kOptional;
    inner.matmul.bias = source_.weights.Vector({{name + ".bias", {part.rows}, optional}});
    mixer->inner.push_back(inner);
    *part.column = column;
    column += part.rows;
  }
}

TokenMixArgs PlanShortConvolution(MixerSource& source, bool use_short_conv,
                                  const std::vector<ShortConvolution>& convolutions) {
  TokenMixArgs args;
  args.taps = use_short_conv ? source.config.Int("conv_size", 4, 1, 64) : 1;
  std::vector<TensorPart> weights, biases;
  for (const auto& [name, segment] : convolutions) {
    const int channels = segment.channels;
    args.channels += channels;
    weights.push_back({source.Name(absl::StrCat(name, ".weight")), {channels, 1, args.taps}});
    biases.push_back({source.Name(absl::StrCat(name, ".bias")), {channels}, true});
    args.segments.push_back(segment);
  }
  if (use_short_conv) {
    args.weight = source.weights.Vector(weights);
    args.bias = source.weights.Vector(biases);
  } else {
    args.weight =
        source.weights.Constant(std::vector<float>(static_cast<size_t>(args.channels), 1));
  }
  return args;
}

FeatureMap ReadActivationMap(Config& config) {
  const std::string map = config.Text("feature_map", "", {"relu", "silu", "swish"});
  return map.empty()     ? FeatureMap::kIdentity
         : map == "relu" ? FeatureMap::kRelu
                         : FeatureMap::kSilu;
}

MemoryOutputArgs PlanHeadNorm(MixerSource& source, int heads, int value_dim,
                              const std::vector<absl::string_view>& names) {
  MemoryOutputArgs args;
  args.heads = heads;
  args.value_dim = value_dim;
  args.eps = source.norm_eps;
  if (!names.empty()) {
    std::string name = source.Name(names.front());
    for (absl::string_view other : names) {
      if (source.weights.Has(source.Name(other))) {
        name = source.Name(other);
        break;
      }
    }
    args.weight = source.weights.Vector({{name, {value_dim}}});
  }
  return args;
}

void PlanSwishGateOutput(MixerSource& source, int heads, int value_dim, MixerPlan* mixer) {
  std::vector<absl::string_view> norms;
  if (source.config.Bool("elementwise_affine", true)) {
    norms = {"g_norm_swish_gate.weight", "g_norm.weight"};
  }
  mixer->output = PlanHeadNorm(source, heads, value_dim, norms);
  mixer->output.gate_activation = Activation::kSilu;
  mixer->out_proj = PlanOutProjection(source, heads * value_dim);
}

MatMulArgs PlanOutProjection(MixerSource& source, int columns) {
  MatMulArgs args;
  args.w = source.weights.Matrix({{source.Name("o_proj.weight"), {source.hidden_size, columns}}});
  args.bias = source.weights.Vector(
      {{source.Name("o_proj.bias"), {source.hidden_size}, /*optional=*/true}});
  args.add = true;
  return args;
}

}  // namespace evenflow
