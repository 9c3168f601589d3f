// RWKV-7 (arXiv 2503.14456) as flash-linear-attention saves it, model_type "rwkv7".
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/families/family.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

// Inputs of the mixer's projections, each mixed with the token before in a way of its own. Files
// keep their weights in this order.
enum Stream : uint8_t { kReceptance, kDecay, kKey, kValue, kRate, kGate, kStreams };

struct Sizes {
  int heads = 1, key_dim = 1, value_dim = 1;

  int values() const { return heads * value_dim; }
};

Sizes ReadSizes(MixerSource& source) {
  Config& config = source.config;
  const int hidden = source.hidden_size;
  const bool by_heads = config.Has("num_heads") && config.IsNull("head_dim");
  const char* const field = by_heads ? "num_heads" : "head_dim";
  const int given = config.Int(field, std::min(64, hidden), 1, hidden);
  const int values = config.LayerInt("value_dim", source.layer, source.layers, hidden, 1 << 18);
  if (hidden % given != 0) {
    config.Fail(field, absl::StrCat("allowed: a divisor of hidden_size = ", hidden));
    return {};
  }
  const int heads = by_heads ? given : hidden / given;
  if (values % heads != 0 ||
      values != config.LayerInt("value_dim", 0, source.layers, hidden, 1 << 18)) {
    config.Fail("value_dim",
                absl::StrCat("allowed: the same multiple of the ", heads, " heads in all layers"));
    return {};
  }
  return {heads, hidden / heads, values / heads};
}

// A projection in two factors, NAME.lora.0 [rank, hidden] and NAME.lora.2 [rows, rank].
class LowRank {
 public:
  LowRank(MixerSource& source, std::string name, const char* rank_field)
      : source_(source), name_(std::move(name)) {
    const std::vector<int64_t> shape = source.weights.ShapeOf(Tensor("0.weight"));
    rank_ = shape.size() == 2 && shape[0] >= 1 && shape[0] <= 1 << 18
                ? static_cast<int>(shape[0])
                : source.config.Int(rank_field, 64, 1, 1 << 18);
  }

  int rank() const { return rank_; }

  TensorPart First() const { return {Tensor("0.weight"), {rank_, source_.hidden_size}}; }

  InnerProjection Second(int from, int to, int rows, bool has_bias) const {
    InnerProjection inner{from, to, {}};
    inner.matmul.w = source_.weights.Matrix({{Tensor("2.weight"), {rows, rank_}}});
    if (has_bias) {
      inner.matmul.bias = source_.weights.Vector({{Tensor("2.bias"), {rows}}});
    }
    return inner;
  }

 private:
  std::string Tensor(absl::string_view suffix) const {
    return source_.Name(absl::StrCat(name_, ".lora.", suffix));
  }

  MixerSource& source_;
  const std::string name_;
  int rank_ = 1;
};

TokenShiftArgs PlanShift(MixerSource& source) {
  const int hidden = source.hidden_size;
  TokenShiftArgs shift;
  shift.channels = hidden;
  shift.streams = kStreams;
  if (source.weights.Has(source.Name("x_x"))) {  // older files
    shift.mix = source.weights.Vector({{source.Name("x_x"), {kStreams, hidden}}});
    return shift;
  }
  std::vector<TensorPart> parts;
  for (const char* name : {"x_r", "x_w", "x_k", "x_v", "x_a", "x_g"}) {
    parts.push_back({source.Name(name), {1, 1, hidden}});
  }
  shift.mix = source.weights.Vector(parts);
  return shift;
}

// All projections, and the columns where the memory's inputs find them.
void PlanProjections(MixerSource& source, const Sizes& sizes, MixerPlan* mixer) {
  const int hidden = source.hidden_size;
  int columns = 0;
  const auto project = [&](Stream stream, const std::vector<TensorPart>& parts) {
    const int column = columns;
    InnerProjection projection{stream * hidden, column, {}};
    projection.matmul.w = source.weights.Matrix(parts);
    columns += static_cast<int>(projection.matmul.w.rows);
    mixer->shifted.push_back(projection);
    return column;
  };
  const auto raise = [&](const LowRank& low_rank, int from, int rows, bool has_bias) {
    const int column = columns;
    mixer->inner.push_back(low_rank.Second(from, column, rows, has_bias));
    columns += rows;
    return column;
  };
  const LowRank decay(source, "w_lora", "decay_low_rank_dim");
  const LowRank rate(source, "a_lora", "a_low_rank_dim");
  const LowRank gate(source, "g_lora", "gate_low_rank_dim");
  MemoryInputsArgs& inputs = mixer->inputs;
  GeneralizedDeltaKeysArgs& keys = mixer->keys.emplace();

  inputs.q_column = project(kReceptance, {{source.Name("r_proj.weight"), {hidden, hidden}}});
  keys.k_column = project(kKey, {{source.Name("k_proj.weight"), {hidden, hidden}}});
  inputs.k_column = -1;
  std::vector<TensorPart> values = {{source.Name("v_proj.weight"), {sizes.values(), hidden}}};
  if (source.layer > 0) {
    const LowRank mix(source, "v_lora", "v_low_rank_dim");
    values.push_back(mix.First());
    inputs.v_column = project(kValue, values);
    keys.mix_column =
        raise(mix, inputs.v_column + sizes.values(), sizes.values(), /*has_bias=*/true);
  } else {
    inputs.v_column = project(kValue, values);
  }
  keys.v_column = inputs.v_column;
  const int rate_from = project(kRate, {rate.First()});
  // These two have an activation between their factors.
  const int decay_from = project(kDecay, {decay.First()});
  const int gate_from = project(kGate, {gate.First()});
  TokenMixArgs& mix = mixer->token_mix;
  mixer->mix_column = decay_from;
  mix.channels = decay.rank() + gate.rank();
  mix.taps = 1;
  mix.weight = source.weights.Constant(std::vector<float>(static_cast<size_t>(mix.channels), 1));
  mix.segments = {{decay.rank(), Activation::kTanh}, {gate.rank(), Activation::kSigmoid}};

  keys.rate_column = raise(rate, rate_from, hidden, /*has_bias=*/true);
  inputs.decay_column = raise(decay, decay_from, hidden, /*has_bias=*/true);
  mixer->gate_column = raise(gate, gate_from, sizes.values(), /*has_bias=*/false);
}

MemoryOutputArgs PlanOutput(MixerSource& source, const Sizes& sizes) {
  MemoryOutputArgs output;
  output.heads = sizes.heads;
  output.value_dim = sizes.value_dim;
  output.norm = OutputNorm::kGroup;
  output.weight = source.weights.Vector({{source.Name("g_norm.weight"), {sizes.values()}}});
  output.weight_per_head = true;
  output.bias = source.weights.Vector({{source.Name("g_norm.bias"), {sizes.values()}}});
  output.eps = static_cast<float>(sizes.key_dim) * source.norm_eps;
  return output;
}

}  // namespace

MixerPlan PlanRwkv7Mixer(MixerSource& source) {
  Config& config = source.config;
  Weights& weights = source.weights;
  const int hidden = source.hidden_size;
  const Sizes sizes = ReadSizes(source);
  MixerPlan mixer;
  mixer.shift = PlanShift(source);
  PlanProjections(source, sizes, &mixer);

  MemoryInputsArgs& inputs = mixer.inputs;
  inputs.shape = {sizes.heads, sizes.heads,   sizes.heads,
                  sizes.heads, sizes.key_dim, sizes.value_dim};
  inputs.raw_key_dim = sizes.key_dim;
  inputs.raw_value_dim = sizes.value_dim;
  inputs.decay.gate = DecayGate::kBounded;  // g = -e^-1/2 sigmoid(x)
  inputs.decay.low = -0.6065306597126334f;
  inputs.decay.rate = weights.Constant(std::vector<float>(static_cast<size_t>(sizes.heads), -1));

  GeneralizedDeltaKeysArgs& keys = *mixer.keys;
  keys.erase_weight = weights.Vector({{source.Name("k_k"), {hidden}}});
  keys.rate_weight = weights.Vector({{source.Name("k_a"), {hidden}}});
  keys.bonus_weight = weights.Vector({{source.Name("r_k"), {sizes.heads, sizes.key_dim}}});
  keys.norm = config.Bool("fuse_norm", true) ? HeadNorm::kL2 : HeadNorm::kUnit;
  mixer.advance.memory = MemoryKind::kGeneralizedDeltaRule;

  mixer.skip_column = inputs.v_column;
  mixer.output = PlanOutput(source, sizes);
  mixer.out_proj = PlanOutProjection(source, sizes.values());
  return mixer;
}

MlpPlan PlanRwkv7Mlp(MixerSource& source, const std::string& prefix) {
  Config& config = source.config;
  Weights& weights = source.weights;
  const int hidden = source.hidden_size;
  config.Text("hidden_act", "sqrelu", {"sqrelu"});
  const double ratio = config.Float("hidden_ratio", 4, 0.01, 64);
  const int fallback = (static_cast<int>(hidden * ratio) + 31) / 32 * 32;
  const int size = config.Int("intermediate_size", fallback);
  MlpPlan mlp;
  mlp.norm = PlanNorm(source, prefix + "ffn_norm");
  mlp.shift.channels = hidden;
  mlp.shift.mix = weights.Vector({{prefix + "ffn.x_k", {hidden}}});
  mlp.gate_up.w = weights.Matrix({{prefix + "ffn.key.weight", {size, hidden}}});
  mlp.activation.has_up = false;
  mlp.activation.size = size;
  mlp.activation.activation = Activation::kSquaredRelu;
  mlp.down.w = weights.Matrix({{prefix + "ffn.value.weight", {hidden, size}}});
  mlp.down.add = true;
  return mlp;
}

}  // namespace evenflow
