// A model family: how a checkpoint's config and tensors become a plan. One file each beside this
// one; the pieces that they share are declared here. Loading thread only.
#ifndef EVENFLOW_ENGINE_MODEL_FAMILIES_FAMILY_H_
#define EVENFLOW_ENGINE_MODEL_FAMILIES_FAMILY_H_

#include <map>
#include <string>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/plan.h"
#include "engine/model/weights.h"

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace evenflow {

// One layer of a checkpoint, while its mixer is planned. Errors stick to config and weights.
struct MixerSource {
  Config& config;
  Weights& weights;
  std::string prefix;        // of the mixer's tensors: "model.layers.3.attn."
  std::string model_prefix;  // of the model's own: "model."
  int layer = 0;             // of `layers`
  int layers = 0;
  int hidden_size = 0;
  float norm_eps = 0;
  NormKind norm = NormKind::kRms;  // of the blocks; outputs of memories have their own

  std::string Name(absl::string_view tensor) const { return prefix + std::string(tensor); }
};

// The names around the mixers, and what else differs there.
struct Skeleton {
  absl::string_view prefix = "model.";
  absl::string_view mixer = "attn.";
  absl::string_view mixer_norm = "attn_norm";
  absl::string_view norm = "norm";
  absl::string_view old_norm_eps = "rms_norm_eps";  // norm_eps in older files
  double default_norm_eps = 1e-6;
  bool has_mlp = true;
  // Why no layer has attention in place of the memory; empty: layers from first_attention on may.
  absl::string_view no_attention = "";
  int first_attention = 0;
  // kLayer: also of the embedding, if norm_first; with biases, if norm_bias.
  NormKind block_norm = NormKind::kRms;
  // What stands in place of the gated MLP; `prefix` of the layer's tensors.
  MlpPlan (*plan_mlp)(MixerSource& source, const std::string& prefix) = nullptr;
};

struct Family {
  absl::string_view model_type;
  int default_layers = 0;
  double default_hidden_ratio = 0;
  MixerPlan (*plan_mixer)(MixerSource& source) = nullptr;
  Skeleton skeleton = {};
};

MixerPlan PlanRetNetMixer(MixerSource& source);
MixerPlan PlanLinearAttentionMixer(MixerSource& source);
MixerPlan PlanDeltaNetMixer(MixerSource& source);
MixerPlan PlanGatedDeltaNetMixer(MixerSource& source);
MixerPlan PlanKaczmarzMixer(MixerSource& source);
MixerPlan PlanGlaMixer(MixerSource& source);
MixerPlan PlanHgrn2Mixer(MixerSource& source);
MixerPlan PlanKdaMixer(MixerSource& source);
MixerPlan PlanMamba2Mixer(MixerSource& source);
MixerPlan PlanVlaMixer(MixerSource& source);
MixerPlan PlanLogLinearMixer(MixerSource& source);
MixerPlan PlanLogLinearMamba2Mixer(MixerSource& source);
MixerPlan PlanVortMixer(MixerSource& source);
MixerPlan PlanRwkv7Mixer(MixerSource& source);
MlpPlan PlanRwkv7Mlp(MixerSource& source, const std::string& prefix);

// Of hybrid models, the layers whose mixer is softmax attention over a window (config field
// "attn").
struct HybridAttention {
  int heads = 0, key_heads = 0, window = 0;
  bool qkv_bias = false;
  float rope_theta = 0;
};

// By layer. Attention without a window is an error: its state would grow.
std::map<int, HybridAttention> ReadHybridLayers(Config& config, int hidden_size, int layers);
MixerPlan PlanHybridAttention(MixerSource& source, const HybridAttention& attention);

// The family of the config's model_type; INVALID_ARGUMENT lists those there are.
absl::StatusOr<Family> FindFamily(Config& config);

// The whole model: embeddings, the family's layers, final norm and head. All errors, including
// tensors that nobody asked for, are in the result.
absl::StatusOr<ModelPlan> PlanModel(const Family& family, Config& config, Weights& weights);

// ---- Pieces of mixers

// A block's norm of the residual stream, tensors NAME.weight and so on.
NormArgs PlanNorm(const MixerSource& source, const std::string& name);

// num_heads, or num_attention_heads as early files spell it.
int Heads(Config& config, int fallback);
// A number of heads that must divide `heads`.
int GroupedHeads(Config& config, absl::string_view field, int heads);
// hidden_size * expand / heads; an error unless that is an integer.
int HeadSize(MixerSource& source, absl::string_view expand_field, double fallback, int heads);

// num_v_heads: a multiple of `heads`.
int ValueHeads(Config& config, int heads);
// head_dim * expand_v; an error unless that is an integer.
int ExpandedHead(Config& config, int key_dim, double fallback);

// Whether projections have biases: as the checkpoint has them, or as its config says.
enum class Bias : uint8_t { kOptional, kNone, kRequired };

// Projections of the same input, placed side by side so that one product computes them all.
class Projections {
 public:
  explicit Projections(MixerSource& source, Bias bias = Bias::kOptional)
      : source_(source), bias_(bias) {}

  // Adds tensor NAME.weight [rows, hidden]; returns its first column in the output.
  int Add(absl::string_view name, int rows) { return Add(name, rows, bias_); }

  int Add(absl::string_view name, int rows, Bias bias);
  // Adds a projection in two factors, NAME.0.weight [rank, hidden] and NAME.1.weight [rows, rank],
  // the latter with a bias; its first column is known, and put into *column, once all are loaded.
  void AddLowRank(absl::string_view name, int rank, int rows, Bias bias, int* column);
  // The fused weights, with their biases.
  void Load(MixerPlan* mixer);

 private:
  MixerSource& source_;
  const Bias bias_;
  int columns_ = 0;
  std::vector<TensorPart> weights_;
  std::vector<TensorPart> biases_;

  struct LowRank {
    std::string name;
    int from, rank, rows;
    Bias bias;
    int* column;
  };

  std::vector<LowRank> low_rank_;
};

// A convolution NAME.weight of adjacent channels, and what follows it.
struct ShortConvolution {
  absl::string_view name;
  TokenMixArgs::Segment segment;
};

// The convolutions of the adjacent first segments of the projections. Without convolutions only the
// activations are applied: one tap of weight 1.
TokenMixArgs PlanShortConvolution(MixerSource& source, bool use_short_conv,
                                  const std::vector<ShortConvolution>& convolutions);

// Output norm and swish gate under the names that retnet and gla give them, and the projection.
void PlanSwishGateOutput(MixerSource& source, int heads, int value_dim, MixerPlan* mixer);

// What Gated DeltaNet and KDA share: q and k of `heads`, v and states of `value_heads`.
struct GroupedDelta {
  int heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;
};

// Adds q, k and v.
void AddGroupedDelta(const GroupedDelta& sizes, Projections* projections, MemoryInputsArgs* inputs);
// What follows the projections: convolutions, shape, norms, decay with a bias for each of
// `decay_channels` channels of a head, write strength, output.
void PlanGroupedDelta(MixerSource& source, const GroupedDelta& sizes, int decay_channels,
                      MixerPlan* mixer);

// Heads with their own queries, keys and values, all of which a short convolution with SiLU follows
// where use_short_conv says so; an optional output gate.
struct ConvolvedHeads {
  int heads = 0, key_dim = 0, value_dim = 0;
};

// Reads the sizes and adds the projections.
ConvolvedHeads AddConvolvedHeads(MixerSource& source, Projections* projections, MixerPlan* mixer);
// What follows the projections: convolutions, shape, output.
void PlanConvolvedHeads(MixerSource& source, const ConvolvedHeads& sizes, MixerPlan* mixer);

// Mamba-2's mixer. So many extra columns for each head follow the time steps' in its projection.
MixerPlan PlanStateSpaceMixer(MixerSource& source, int extra_columns);

// Where feature_map may be absent or name an activation.
FeatureMap ReadActivationMap(Config& config);

// Norm over each head's values with the weight of the first of `names` that the checkpoint holds;
// no names: no weight.
MemoryOutputArgs PlanHeadNorm(MixerSource& source, int heads, int value_dim,
                              const std::vector<absl::string_view>& names);

// The projection o_proj [hidden, columns].
MatMulArgs PlanOutProjection(MixerSource& source, int columns);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_FAMILIES_FAMILY_H_
