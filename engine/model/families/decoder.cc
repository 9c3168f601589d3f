// The skeleton around the mixers: embeddings, pre-norm blocks of mixer and gated MLP, norm, head.
#include <cmath>

#include "engine/model/families/family.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

// Where config.json gives no size, the checkpoint does: the rule for it has changed over time.
int IntermediateSize(const Family& family, Config& config, const Weights& weights,
                     const std::string& down_proj) {
  if (config.Has("intermediate_size")) {
    return config.Int("intermediate_size", 1);
  }
  const std::vector<int64_t> shape = weights.ShapeOf(down_proj);
  if (shape.size() == 2 && shape[1] >= 1 && shape[1] <= 1 << 24) {
    return static_cast<int>(shape[1]);
  }
  const int hidden_size = config.Int("hidden_size", 2048, 1, 1 << 18);
  const double ratio = config.Float("hidden_ratio", family.default_hidden_ratio, 0.01, 64);
  return (static_cast<int>(hidden_size * ratio * 2 / 3) + 255) / 256 * 256;
}

// norm_type: RMSNorm, or a function of each channel in its place (DyT, arXiv 2503.10622; Derf).
NormKind ReadNormKind(const Family& family, Config& config) {
  if (!family.skeleton.has_mlp || family.skeleton.block_norm != NormKind::kRms) {
    const bool layer = family.skeleton.block_norm == NormKind::kLayer;
    const char* const only = layer ? "layernorm" : "rmsnorm";
    config.Text("norm_type", only, {only});
    return family.skeleton.block_norm;
  }
  const std::string type = config.Text("norm_type", "rmsnorm", {"rmsnorm", "dyt", "derf"});
  return type == "dyt" ? NormKind::kDyT : type == "derf" ? NormKind::kDerf : NormKind::kRms;
}

MlpPlan PlanGatedMlp(const Family& family, MixerSource& source, const std::string& prefix) {
  Config& config = source.config;
  Weights& weights = source.weights;
  const std::string gate = prefix + "mlp.gate_proj.weight";
  const std::string up = prefix + "mlp.up_proj.weight";
  const std::string down = prefix + "mlp.down_proj.weight";
  const int size = IntermediateSize(family, config, weights, down);
  MlpPlan mlp;
  mlp.norm = PlanNorm(source, prefix + "mlp_norm");
  // Files from before February 2025 hold gate and up in one tensor.
  if (weights.Has(gate) && !weights.Has(up)) {
    mlp.gate_up.w = weights.Matrix({{gate, {2 * size, source.hidden_size}}});
  } else {
    mlp.gate_up.w =
        weights.Matrix({{gate, {size, source.hidden_size}}, {up, {size, source.hidden_size}}});
  }
  mlp.activation.size = size;
  mlp.down.w = weights.Matrix({{down, {source.hidden_size, size}}});
  mlp.down.add = true;
  return mlp;
}

void CheckCommon(const Family& family, Config& config) {
  if (!family.skeleton.no_attention.empty()) {
    config.Refuse("attn", family.skeleton.no_attention);
  }
  config.Refuse("attnres_block_size", "attention residuals are not supported");
  if (family.skeleton.plan_mlp == nullptr) {
    config.Text("hidden_act", "swish", {"swish", "silu"});
  }
}

}  // namespace

NormArgs PlanNorm(const MixerSource& source, const std::string& name) {
  Weights& weights = source.weights;
  NormArgs args;
  args.dim = source.hidden_size;
  args.kind = source.norm;
  args.weight = weights.Vector({{name + ".weight", {source.hidden_size}}});
  args.eps = source.norm_eps;
  const auto number = [&](const char* suffix, float* to) {
    const std::vector<float> numbers = weights.Numbers({name + suffix, {1}});
    *to = numbers.empty() ? *to : numbers[0];
  };
  if (args.kind == NormKind::kLayer && source.config.Bool("norm_bias", true)) {
    args.bias = weights.Vector({{name + ".bias", {source.hidden_size}}});
  } else if (args.kind == NormKind::kDyT || args.kind == NormKind::kDerf) {
    args.bias = weights.Vector({{name + ".bias", {source.hidden_size}}});
    number(".alpha", &args.alpha);
  }
  if (args.kind == NormKind::kDerf) {
    number(".shift", &args.shift);
  }
  return args;
}

absl::StatusOr<ModelPlan> PlanModel(const Family& family, Config& config, Weights& weights) {
  CheckCommon(family, config);
  ModelPlan plan;
  plan.hidden_size = config.Int("hidden_size", 2048, 1, 1 << 18);
  plan.vocab_size = config.Int("vocab_size", 32000);
  const int layers = config.Int("num_hidden_layers", family.default_layers, 1, 4096);
  const bool tied = config.Bool("tie_word_embeddings", false);
  const Skeleton& skeleton = family.skeleton;
  const auto eps = static_cast<float>(config.Float(config.NameOf("norm_eps", skeleton.old_norm_eps),
                                                   skeleton.default_norm_eps, 0, 1));

  const NormKind norm = ReadNormKind(family, config);
  const std::map<int, HybridAttention> hybrid = ReadHybridLayers(config, plan.hidden_size, layers);
  if (!hybrid.empty() && hybrid.begin()->first < skeleton.first_attention) {
    config.Fail("attn", absl::StrCat("allowed for ", family.model_type,
                                     ": attention in layers from ", skeleton.first_attention,
                                     " on, which need values of the ones before"));
  }

  // Files saved from the bare base model lack the prefix.
  const std::string prefix = weights.Has("embeddings.weight") ? "" : std::string(skeleton.prefix);
  plan.embed.table =
      weights.Matrix({{prefix + "embeddings.weight", {plan.vocab_size, plan.hidden_size}}});
  for (int i = 0; i < layers && config.status().ok() && weights.status().ok(); ++i) {
    const std::string layer_prefix = absl::StrCat(prefix, "layers.", i, ".");
    MixerSource source{config,           weights, absl::StrCat(layer_prefix, skeleton.mixer),
                       prefix,           i,       layers,
                       plan.hidden_size, eps,     norm};
    if (i == 0 && norm == NormKind::kLayer && config.Bool("norm_first", true)) {
      plan.embed_norm = PlanNorm(source, absl::StrCat(layer_prefix, "pre_norm"));
    }
    LayerPlan layer;
    layer.mixer_norm = PlanNorm(source, absl::StrCat(layer_prefix, skeleton.mixer_norm));
    const auto attention = hybrid.find(i);
    layer.mixer = attention == hybrid.end() ? family.plan_mixer(source)
                                            : PlanHybridAttention(source, attention->second);
    if (skeleton.has_mlp) {
      layer.mlp = skeleton.plan_mlp != nullptr ? skeleton.plan_mlp(source, layer_prefix)
                                               : PlanGatedMlp(family, source, layer_prefix);
    }
    plan.layers.push_back(std::move(layer));
  }
  const MixerSource top{config, weights,          prefix, prefix, layers,
                        layers, plan.hidden_size, eps,    norm};
  plan.norm = PlanNorm(top, absl::StrCat(prefix, skeleton.norm));
  plan.norm.tokens = TokenSet::kLogits;
  if (tied) {
    weights.Ignore("lm_head.weight");
    plan.head.w = plan.embed.table;
  } else {
    plan.head.w = weights.Matrix({{"lm_head.weight", {plan.vocab_size, plan.hidden_size}}});
  }
  plan.head.tokens = TokenSet::kLogits;

  absl::Status status = config.status();
  status.Update(weights.Finish());
  return status.ok() ? absl::StatusOr<ModelPlan>(std::move(plan)) : status;
}

}  // namespace evenflow
