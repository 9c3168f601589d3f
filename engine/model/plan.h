// What a model computes, as data: the operations of every layer with their weights and options.
// Families fill it at load; the forward pass adds buffers and runs it. Plain data.
#ifndef EVENFLOW_ENGINE_MODEL_PLAN_H_
#define EVENFLOW_ENGINE_MODEL_PLAN_H_

#include <optional>
#include <string>
#include <vector>

#include "engine/model/power_law_fit.h"
#include "kernels/backend.h"

namespace evenflow {

// A projection from columns of one matrix to columns of another: the second factor of a low-rank
// projection, or one of a stream of shifted inputs.
struct InnerProjection {
  int from = 0;
  int to = 0;
  MatMulArgs matmul;
};

// The mixer of one layer: projection, short convolution, memory, output norm and gate, projection.
// In hybrid models some layers have window attention between the projections instead. Families
// leave activation matrices, buffers, slots and offsets unset.
struct MixerPlan {
  MatMulArgs in_proj;                    // D -> all projections side by side
  TokenShiftArgs shift;                  // channels 0: none
  std::vector<InnerProjection> shifted;  // with a shift in place of in_proj: from its streams
  std::vector<InnerProjection> inner;    // from projections to projections, after the convolution
  int mix_column = 0;                    // first column of the convolution's channels among these
  TokenMixArgs token_mix;                // channels 0: none
  MemoryInputsArgs inputs;               // with the memory's shape
  std::optional<GeneralizedDeltaKeysArgs> keys;  // RWKV-7's
  std::optional<PreconditionArgs> precondition;  // VLA's; with its mode, lambda0, mu and weights
  AdvanceArgs advance;                           // memory kind and, for a constant decay, log_decay
  MemoryOutputArgs output;
  int gate_column = -1;  // first column of the output gate among the projections; -1: none
  int skip_column = -1;  // likewise of what the output adds, as the convolution left it
  std::optional<WindowAttentionArgs> attention;
  MatMulArgs out_proj;                      // -> D, added to the residual stream
  std::optional<PowerLawTarget> power_law;  // what advance.power_law is to be, without first_lag
  std::string detail;                       // options of the memory, for people; may be empty
};

struct MlpPlan {
  NormArgs norm;
  TokenShiftArgs shift;  // channels 0: none
  MatMulArgs gate_up;    // D -> 2 I: gate, then up; or D -> I, without up
  MlpActivationArgs activation;
  MatMulArgs down;  // I -> D, added to the residual stream
};

struct LayerPlan {
  NormArgs mixer_norm;
  MixerPlan mixer;
  std::optional<MlpPlan> mlp;
};

struct ModelPlan {
  int hidden_size = 0;
  int vocab_size = 0;
  EmbedArgs embed;
  std::optional<NormArgs> embed_norm;  // of the embedding, which it replaces
  std::vector<LayerPlan> layers;
  NormArgs norm;
  MatMulArgs head;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_PLAN_H_
