// Window attention in some layers of a hybrid model, as flash-linear-attention saves it: config
// field "attn", one object or a list of them.
#include <utility>

#include "engine/model/families/family.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

constexpr int kMaxHeads = 4096;
constexpr int kMaxWindow = 1 << 20;

HybridAttention ReadAttention(Config& config, int hidden_size) {
  HybridAttention attention;
  attention.heads = config.Int("num_heads", 1, 1, kMaxHeads);
  if (!config.Has("num_heads")) {
    config.Fail("num_heads", absl::StrCat("allowed: an integer from 1 to ", kMaxHeads));
  } else if (hidden_size % attention.heads != 0 || hidden_size / attention.heads % 2 != 0) {
    config.Fail("num_heads",
                absl::StrCat("allowed: numbers that divide hidden_size = ", hidden_size,
                             " into heads of an even size (rotary positions)"));
  }
  attention.key_heads = GroupedHeads(config, "num_kv_heads", attention.heads);
  if (!config.Has("window_size")) {
    config.Fail("window_size",
                absl::StrCat("attention over all tokens keeps a state that grows with each; "
                             "allowed: attention over the newest 1 to ",
                             kMaxWindow, " tokens"));
  }
  attention.window = config.Int("window_size", 1, 1, kMaxWindow);
  attention.qkv_bias = config.Bool("qkv_bias", false);
  attention.rope_theta = static_cast<float>(config.Float("rope_theta", 10000, 1e-3, 1e30));
  return attention;
}

}  // namespace

std::map<int, HybridAttention> ReadHybridLayers(Config& config, int hidden_size, int layers) {
  std::map<int, HybridAttention> by_layer;
  for (Config& object : config.Objects("attn")) {
    const HybridAttention attention = ReadAttention(object, hidden_size);
    for (const int layer : object.Ints("layers", 0, layers - 1)) {
      if (!by_layer.emplace(layer, attention).second) {
        object.Fail("layers",
                    absl::StrCat("allowed: each layer once, and ", layer, " is there before"));
      }
    }
    config.Update(object.status());
  }
  return by_layer;
}

MixerPlan PlanHybridAttention(MixerSource& source, const HybridAttention& attention) {
  const int head_dim = source.hidden_size / attention.heads;
  WindowAttentionArgs args;
  args.heads = attention.heads;
  args.key_heads = attention.key_heads;
  args.head_dim = head_dim;
  args.window = attention.window;
  args.rotary_base = attention.rope_theta;

  MixerPlan mixer;
  Projections projections(source, attention.qkv_bias ? Bias::kRequired : Bias::kNone);
  args.q_column = projections.Add("q_proj", source.hidden_size);
  args.k_column = projections.Add("k_proj", attention.key_heads * head_dim);
  args.v_column = projections.Add("v_proj", attention.key_heads * head_dim);
  projections.Load(&mixer);
  mixer.attention = args;
  mixer.out_proj = PlanOutProjection(source, source.hidden_size);
  return mixer;
}

}  // namespace evenflow
