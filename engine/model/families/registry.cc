// The list of model families. Adding one: a file beside this one and a line here.
#include "engine/model/families/family.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

constexpr absl::string_view kNoAttention =
    "checkpoints of this format have attention in no layer; allowed: null";

constexpr Skeleton kMamba{.prefix = "backbone.",
                          .mixer = "mixer.",
                          .mixer_norm = "norm",
                          .norm = "norm_f",
                          .old_norm_eps = "layer_norm_epsilon",
                          .default_norm_eps = 1e-5,
                          .has_mlp = false,
                          .no_attention = kNoAttention};

constexpr Skeleton kLogLinearMamba{.prefix = "backbone.",
                                   .mixer = "mixer.",
                                   .mixer_norm = "mixer_norm",
                                   .norm = "norm_f",
                                   .old_norm_eps = "layer_norm_epsilon",
                                   .default_norm_eps = 1e-5,
                                   .no_attention = kNoAttention};

// The values of layer 0 go into those of all others.
constexpr Skeleton kRwkv7{.default_norm_eps = 1e-5,
                          .first_attention = 1,
                          .block_norm = NormKind::kLayer,
                          .plan_mlp = PlanRwkv7Mlp};

constexpr Family kFamilies[] = {
    {"retnet", 24, 2, PlanRetNetMixer},
    {"linear_attn", 24, 4, PlanLinearAttentionMixer},
    {"delta_net", 24, 4, PlanDeltaNetMixer},
    {"gated_deltanet", 21, 4, PlanGatedDeltaNetMixer},
    {"gla", 24, 4, PlanGlaMixer},
    {"hgrn2", 24, 4, PlanHgrn2Mixer},
    {"kda", 24, 4, PlanKdaMixer},
    {"mamba2", 48, 0, PlanMamba2Mixer, kMamba},
    {"rwkv7", 24, 4, PlanRwkv7Mixer, kRwkv7},
    {"kla", 21, 4, PlanKaczmarzMixer},
    {"vla", 24, 4, PlanVlaMixer},
    {"log_linear", 24, 4, PlanLogLinearMixer},
    {"log_linear_mamba2", 48, 4, PlanLogLinearMamba2Mixer, kLogLinearMamba},
    {"vort", 24, 4, PlanVortMixer},
};

}  // namespace

absl::StatusOr<Family> FindFamily(Config& config) {
  std::string supported;
  for (const Family& family : kFamilies) {
    if (config.IsText("model_type", family.model_type)) {
      return family;
    }
    absl::StrAppend(&supported, supported.empty() ? "" : ", ", family.model_type);
  }
  config.Fail("model_type", absl::StrCat("supported: ", supported));
  return config.status();
}

}  // namespace evenflow
