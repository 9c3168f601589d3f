// Linear attention (arXiv 2006.16236) as flash-linear-attention saves it, model_type "linear_attn".
#include <cmath>

#include "engine/model/families/family.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

struct MapOption {
  absl::string_view name;
  FeatureMap map;
  int factor;  // size of the mapped head over that of the head
};

constexpr MapOption kMaps[] = {{"elementwise_product", FeatureMap::kElementwiseProduct, 1},
                               {"elu", FeatureMap::kElu1, 1},
                               {"relu", FeatureMap::kRelu, 1},
                               {"identity", FeatureMap::kIdentity, 1},
                               {"t2r", FeatureMap::kT2R, 1},
                               {"hedgehog", FeatureMap::kHedgehog, 2},
                               {"dpfp", FeatureMap::kDpfp, 8}};

MapOption ReadMap(Config& config) {
  const std::string name =
      config.Text("feature_map", "elementwise_product",
                  {"elementwise_product", "elu", "relu", "identity", "t2r", "hedgehog", "dpfp"});
  for (const MapOption& option : kMaps) {
    if (option.name == name) {
      return option;
    }
  }
  return kMaps[0];
}

// The learned map of queries ("q") or keys ("k"). With tied maps, one of them may be missing.
FeatureMapArgs LoadMap(MixerSource& source, absl::string_view of, FeatureMap map, int key_dim) {
  FeatureMapArgs args;
  args.map = map;
  const bool product = map == FeatureMap::kElementwiseProduct;
  if (!product && map != FeatureMap::kT2R && map != FeatureMap::kHedgehog) {
    return args;
  }
  std::string prefix = source.Name(absl::StrCat("feature_map_", of, "."));
  const std::string first = product ? "layer1" : "layer";
  if (source.config.Bool("tie_feature_map_qk", false) &&
      !source.weights.Has(absl::StrCat(prefix, first, ".weight"))) {
    prefix = source.Name(absl::StrCat("feature_map_", of == "q" ? "k" : "q", "."));
  }
  const auto load = [&](absl::string_view layer, const float** weight, const float** bias) {
    *weight = source.weights.Vector({{absl::StrCat(prefix, layer, ".weight"), {key_dim, key_dim}}});
    if (map != FeatureMap::kT2R) {
      *bias = source.weights.Vector({{absl::StrCat(prefix, layer, ".bias"), {key_dim}}});
    }
  };
  load(first, &args.w1, &args.b1);
  if (product) {
    load("layer2", &args.w2, &args.b2);
  }
  return args;
}

}  // namespace

MixerPlan PlanLinearAttentionMixer(MixerSource& source) {
  Config& config = source.config;
  const int heads = Heads(config, 4);
  const int key_heads = GroupedHeads(config, "num_kv_heads", heads);
  const int raw_key_dim = HeadSize(source, "expand_k", 1.0, heads);
  const int value_dim = HeadSize(source, "expand_v", 1.0, heads);
  const MapOption map = ReadMap(config);
  const bool normalizer = config.Bool("norm_feature_map", false);

  MixerPlan mixer;
  Projections projections(source);
  MemoryInputsArgs& inputs = mixer.inputs;
  inputs.q_column = projections.Add("q_proj", heads * raw_key_dim);
  inputs.k_column = projections.Add("k_proj", key_heads * raw_key_dim);
  inputs.v_column = projections.Add("v_proj", key_heads * value_dim);
  projections.Load(&mixer);

  // Query heads of a group would keep equal states: they share one.
  const int key_dim = raw_key_dim * map.factor;
  inputs.shape = {key_heads, heads,   key_heads,
                  key_heads, key_dim, value_dim + (normalizer ? 1 : 0)};
  inputs.raw_key_dim = raw_key_dim;
  inputs.raw_value_dim = value_dim;
  inputs.q_map = LoadMap(source, "q", map.map, raw_key_dim);
  inputs.k_map = LoadMap(source, "k", map.map, raw_key_dim);
  inputs.q_norm = config.Bool("norm_q", false) ? HeadNorm::kSumEps : HeadNorm::kNone;
  inputs.k_norm = config.Bool("norm_k", false) ? HeadNorm::kSumEps : HeadNorm::kNone;
  inputs.q_scale = 1 / std::sqrt(static_cast<float>(key_dim));
  inputs.ones_column = normalizer;
  mixer.advance.memory = MemoryKind::kLinearAttention;

  std::vector<absl::string_view> norms;
  if (config.Bool("elementwise_affine", true)) {
    norms = {"norm.weight"};
  }
  mixer.output = PlanHeadNorm(source, heads, value_dim, norms);
  mixer.output.normalizer = normalizer;
  mixer.out_proj = PlanOutProjection(source, heads * value_dim);
  return mixer;
}

}  // namespace evenflow
