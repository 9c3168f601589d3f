// HGRN2 (arXiv 2404.07904) as flash-linear-attention saves it, model_type "hgrn2".
#include <algorithm>
#include <cmath>

#include "engine/model/families/family.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

constexpr float kOutputEps = 1e-5f;  // whatever norm_eps says

// expand_ratio (128 where absent), or, where it is null, what num_heads leaves for each.
int ReadKeyDim(MixerSource& source) {
  Config& config = source.config;
  const bool by_heads = config.IsNull("expand_ratio") && config.Has("num_heads");
  const int key_dim = by_heads
                          ? std::max(1, source.hidden_size / config.Int("num_heads", 1, 1, 4096))
                          : config.Int("expand_ratio", 128, 1, 8192);
  if (source.hidden_size % key_dim != 0) {
    config.Fail("expand_ratio",
                absl::StrCat("allowed: a divisor of hidden_size = ", source.hidden_size));
    return source.hidden_size;
  }
  return key_dim;
}

// The layer's lower bound of each channel's decay: with P = softmax over the layers, the sum of P_1
// to P_layer.
const float* LowerBounds(MixerSource& source) {
  const auto width = static_cast<size_t>(source.hidden_size);
  const std::vector<float> raw = source.weights.Numbers(
      {source.model_prefix + "lower_bounds", {source.layers, source.hidden_size}});
  std::vector<float> bounds(width);
  for (size_t channel = 0; channel < width && !raw.empty(); ++channel) {
    float largest = raw[channel];
    for (size_t at = channel; at < raw.size(); at += width) {
      largest = std::max(largest, raw[at]);
    }
    double sum = 0;
    double below = 0;
    for (size_t at = channel, layer = 0; at < raw.size(); at += width, ++layer) {
      const double part = std::exp(static_cast<double>(raw[at]) - static_cast<double>(largest));
      sum += part;
      below += layer > 0 && layer <= static_cast<size_t>(source.layer) ? part : 0;
    }
    bounds[channel] = static_cast<float>(below / sum);
  }
  return source.weights.Constant(bounds);
}

}  // namespace

MixerPlan PlanHgrn2Mixer(MixerSource& source) {
  Config& config = source.config;
  const int width = source.hidden_size;
  const int key_dim = ReadKeyDim(source);
  const int heads = width / key_dim;

  MixerPlan mixer;
  Projections projections(source);
  MemoryInputsArgs& inputs = mixer.inputs;
  inputs.q_column = projections.Add("q_proj", width);
  inputs.decay_column = projections.Add("f_proj", width);
  inputs.k_column = -1;
  inputs.v_column = projections.Add("i_proj", width);
  projections.Load(&mixer);
  if (config.Bool("use_short_conv", false)) {
    mixer.token_mix = PlanShortConvolution(source, true,
                                           {{"q_conv1d", {width, Activation::kNone}},
                                            {"f_conv1d", {width, Activation::kNone}},
                                            {"i_conv1d", {width, Activation::kNone}}});
  }

  inputs.shape = {heads, heads, heads, heads, key_dim, key_dim};
  inputs.raw_key_dim = key_dim;
  inputs.raw_value_dim = key_dim;
  inputs.q_map.map = FeatureMap::kSilu;
  inputs.q_scale = 1 / std::sqrt(static_cast<float>(key_dim));
  inputs.decay.gate = DecayGate::kLowerBounded;
  if (config.Bool("use_lower_bound", true)) {
    inputs.decay.bias = LowerBounds(source);
  }
  mixer.advance.memory = MemoryKind::kGatedLinearAttention;

  std::vector<absl::string_view> norms;
  if (config.Bool("elementwise_affine", true)) {
    norms = {"g_norm.weight"};
  }
  mixer.output = PlanHeadNorm(source, 1, width, norms);  // over all heads together
  mixer.output.eps = kOutputEps;
  mixer.out_proj = PlanOutProjection(source, width);
  return mixer;
}

}  // namespace evenflow
