#include "engine/model/families/family.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace evenflow {

int Heads(Config& config, int fallback) {
  constexpr int kMaxHeads = 4096;
  const int heads = config.Int("num_attention_heads", fallback, 1, kMaxHeads);
  return config.Int("num_heads", heads, 1, kMaxHeads);
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

int Projections::Add(absl::string_view name, int rows) {
  const int column = columns_;
  columns_ += rows;
  weights_.push_back({source_.Name(absl::StrCat(name, ".weight")), {rows, source_.hidden_size}});
  biases_.push_back({source_.Name(absl::StrCat(name, ".bias")), {rows}, /*optional=*/true});
  return column;
}

MatMulArgs Projections::Load() {
  MatMulArgs args;
  args.w = source_.weights.Matrix(weights_);
  args.bias = source_.weights.Vector(biases_);
  return args;
}

TokenMixArgs PlanShortConvolution(MixerSource& source, bool use_short_conv,
                                  std::vector<TokenMixArgs::Segment> segments) {
  constexpr absl::string_view kNames[] = {"q_conv1d", "k_conv1d", "v_conv1d"};
  TokenMixArgs args;
  args.taps = use_short_conv ? source.config.Int("conv_size", 4, 1, 64) : 1;
  std::vector<TensorPart> weights, biases;
  for (size_t i = 0; i < segments.size(); ++i) {
    const int channels = segments[i].channels;
    args.channels += channels;
    weights.push_back({source.Name(absl::StrCat(kNames[i], ".weight")), {channels, 1, args.taps}});
    biases.push_back({source.Name(absl::StrCat(kNames[i], ".bias")), {channels}, true});
  }
  args.segments = std::move(segments);
  if (use_short_conv) {
    args.weight = source.weights.Vector(weights);
    args.bias = source.weights.Vector(biases);
  } else {
    args.weight =
        source.weights.Constant(std::vector<float>(static_cast<size_t>(args.channels), 1));
  }
  return args;
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

MatMulArgs PlanOutProjection(MixerSource& source, int columns) {
  MatMulArgs args;
  args.w = source.weights.Matrix({{source.Name("o_proj.weight"), {source.hidden_size, columns}}});
  args.bias = source.weights.Vector(
      {{source.Name("o_proj.bias"), {source.hidden_size}, /*optional=*/true}});
  args.add = true;
  return args;
}

}  // namespace evenflow
