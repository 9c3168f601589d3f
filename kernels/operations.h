// What each operation of a backend reads and writes: plain arguments with their shapes and
// formulas. The order here is that of a layer. No thread rules of its own.
#ifndef EVENFLOW_KERNELS_OPERATIONS_H_
#define EVENFLOW_KERNELS_OPERATIONS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/level_weights.h"
#include "kernels/math/power_law.h"
#include "kernels/memories/registry.h"
#include "kernels/memory.h"
#include "kernels/tensor.h"

namespace evenflow {

enum class Activation : uint8_t { kNone, kSilu, kRelu, kElu1, kSigmoid, kTanh, kSquaredRelu };
enum class NormKind : uint8_t {
  kRms,    // x / sqrt(mean(x^2) + eps) * weight + bias
  kLayer,  // the same of x - mean(x)
  kDyT,    // tanh(alpha x) * weight + bias
  kDerf,   // erf(alpha x + shift) * weight + bias
};
enum class TokenSet : uint8_t { kAll, kLogits };  // which tokens of the step an operation covers

// out[t] = table[id of t].
struct EmbedArgs {
  Weight table;  // [vocab, dim]
  Matrix out;    // [token, dim]
};

// y = x W^T (+ bias), or y += that. A row's result does not depend on the other rows (CPU: bit for
// bit). With kLogits, rows are logits: x and y are [logit, ...], as Norm leaves them.
struct MatMulArgs {
  Matrix x;  // [token, w.cols]
  Weight w;
  const float* bias = nullptr;  // [w.rows]
  Matrix y;                     // [token, w.rows]
  bool add = false;
  TokenSet tokens = TokenSet::kAll;
};

// y = norm(x), see NormKind; y may be x. With kLogits, output row i is input row logit_tokens[i].
struct NormArgs {
  Matrix x;  // [token, dim]
  Matrix y;
  int dim = 0;
  NormKind kind = NormKind::kRms;
  const float* weight = nullptr;  // [dim], nullptr: ones
  const float* bias = nullptr;    // [dim], nullptr: zeros
  float eps = 1e-6f;
  float alpha = 1, shift = 0;
  TokenSet tokens = TokenSet::kAll;
  // y is read by the next operation, a MatMul, and by no other: a device may leave a part to that
  // one.
  bool feeds_product = false;
};

// Depthwise causal convolution over the session's last `taps` inputs, in place:
//   x_c(t) <- act( bias_c + sum_j weight[c, j] x_c(t - taps + 1 + j) ), inputs before position 0
//   being 0.
// Inputs live in a ring [taps - 1 + rollback, channels] of fp32 in the session's slot. With one tap
// there is no ring and no state.
struct TokenMixArgs {
  struct Segment {
    int channels = 0;
    Activation activation = Activation::kNone;
  };

  Matrix x;  // [token, channels]
  int channels = 0;
  int taps = 0;
  const float* weight = nullptr;  // [channels, taps], the last tap is the current token
  const float* bias = nullptr;    // [channels]
  std::vector<Segment> segments;  // adjacent channel ranges that sum to channels
  Slots slots;
  size_t ring_offset = 0;
  int rollback = 0;
};

// A map of each head's query or key. y = W x + b with W [key_dim, key_dim] shared by the heads.
enum class FeatureMap : uint8_t {
  kIdentity,
  kSilu,
  kRelu,
  kElu1,                // elu(x) + 1
  kElementwiseProduct,  // (W1 x + b1)(W2 x + b2)
  kT2R,                 // relu(W1 x)
  kHedgehog,            // softmax([2 y, -2 y]), y = W1 x + b1: twice the size
  kDpfp,                // products of [relu x, -relu x] with its rolls 1..4: eight times the size
};

struct FeatureMapArgs {
  FeatureMap map = FeatureMap::kIdentity;
  const float* w1 = nullptr;
  const float* b1 = nullptr;
  const float* w2 = nullptr;
  const float* b2 = nullptr;
};

// Normalisation of each head's query or key, after the map.
enum class HeadNorm : uint8_t {
  kNone,
  kL2,      // x / sqrt(sum x^2 + 1e-6)
  kSum,     // x / sum x
  kSumEps,  // x / (sum x + 1e-4)
  kUnit,    // x / max(|x|, 1e-12)
};

// How a log decay g comes from its projection x: one number a head, or one a head and key channel.
// `bias` is as long; `rate` is one number a head, -exp(A_log) as models store it.
enum class DecayGate : uint8_t {
  kSoftplus,      // g = rate softplus(x + bias)
  kLogSigmoid,    // g = max(logsigmoid(x) / 16, low)                                     (GLA)
  kBounded,       // g = low sigmoid(-rate (x + bias))                                    (KDA)
  kLowerBounded,  // g = ln(b + (1 - b) sigmoid(x)) with b = bias, and k = 1 - e^g        (HGRN2)
  kTimeStep,      // g = rate D with D = softplus(x + bias) in [low, high], and v = D v    (Mamba-2)
};

struct DecayGateArgs {
  DecayGate gate = DecayGate::kSoftplus;
  const float* rate = nullptr;  // [heads]
  const float* bias = nullptr;  // [heads] or [heads, key_dim]; nullptr: zeros
  float low = 0, high = 0;
};

// From the projections of a token to what its memory reads: q, k, v, log decay, beta, level
// weights.
struct MemoryInputsArgs {
  Matrix projected;  // [token, ...]
  // First column in `projected` of each part; -1: absent. Without k_column the gate gives k.
  int q_column = 0, k_column = 0, v_column = 0, decay_column = -1, beta_column = -1;
  int raw_key_dim = 0;    // size of a query or key head before the feature map
  int raw_value_dim = 0;  // size of a value head without the column of ones
  FeatureMapArgs q_map, k_map;
  HeadNorm q_norm = HeadNorm::kNone, k_norm = HeadNorm::kNone;
  float rotary_base = 0;  // > 0: half-split rotary over the head at the token's absolute position
  float q_scale = 1;
  bool ones_column = false;  // v gets a last column of 1 (the normaliser)
  DecayGateArgs decay;       // with a decay_column
  int decay_channels = 1;    // log decays of a head: 1, or key_dim
  // beta = low + (scale - low) sigmoid(x), or just scale without a column
  float beta_low = 0, beta_scale = 1;
  LevelWeightsArgs level_weights;
  MemoryShape shape;
  // Outputs, fp32, contiguous.
  float* q = nullptr;          // [token, query_heads, key_dim]
  float* k = nullptr;          // [token, key_heads, key_dim]
  float* v = nullptr;          // [token, value_heads, value_dim]
  float* log_decay = nullptr;  // [token, heads (, key_dim)], where the memory has it
  float* beta = nullptr;  // [token, heads], where the memory has it; without a column: beta_scale
};

// Where one memory layer lies inside a slot: bytes from the layer's offset, each part 64-byte
// aligned.
struct MemoryLayout {
  size_t committed = 0;  // [heads (, banks), key_dim, value_dim] fp32 or bf16
  // int64: tokens in `committed`; taken as 0 at position 0. The position does not tell it after a
  // rollback.
  size_t committed_tokens = 0;
  size_t keys = 0;    // [heads, ring, entries, key_dim] fp32: w
  size_t values = 0;  // [heads, ring, entries, value_dim] fp32: u
  size_t log_decay =
      0;             // [heads, ring] or [heads, ring, key_dim] fp32, cumulative since Window::Block
  size_t beta = 0;   // [heads, ring] fp32, of banked memories that have it
  size_t bytes = 0;  // the whole layer
};

MemoryLayout LayoutOf(MemoryKind memory, const MemoryShape& shape, const Window& window,
                      DType state_dtype);

// Appends each row's tokens to its memory and reads it after each. Commits by Window::Stored.
struct AdvanceArgs {
  MemoryKind memory = MemoryKind::kRetention;
  MemoryShape shape;
  Window window;
  DType state_dtype = DType::kF32;
  Slots slots;
  size_t layer_offset = 0;
  int memory_layer = 0;      // index in StepOutput::health
  const float* q = nullptr;  // [token, query_heads, key_dim]
  const float* k = nullptr;  // [token, key_heads, entries, key_dim]: w of each entry
  const float* e = nullptr;  // [token, heads, entries with Erase::kOwnKey, key_dim]
  const float* v = nullptr;  // [token, value_heads, value_dim]
  // <= 0. kConstant: [heads]; kScalar: [token, heads]; kChannel: [token, heads, key_dim]
  const float* log_decay = nullptr;
  const float* beta = nullptr;  // [token, heads], where the memory has it
  // Log-linear attention: the weights with which a token reads the levels, [token, heads, banks],
  // and whether what outgrows the top level is forgotten (its level then has more tokens than a
  // block) or stays in it.
  const float* level_weights = nullptr;
  bool forgets_top = false;
  PowerLaw power_law;  // VORT
  float* o = nullptr;  // [token, output_heads, value_dim]
};

// Where the output's RMSNorm stands.
enum class OutputNorm : uint8_t {
  kBeforeGate,  // y = norm(o) act(gate)
  kAfterGate,   // y = norm(o act(gate))
  kNone,        // y = o act(gate)
  kGroup,       // y = (layer norm(o) weight + bias + skip) act(gate); the norm is of o alone
};

// From what was read, o <- o / normaliser + skip_weight skip, to what is projected. Norms are of
// one head each; here heads are whatever is normalised together.
struct MemoryOutputArgs {
  const float* o = nullptr;  // [token, heads, value_dim (+ 1 with a normaliser)]
  int heads = 0;
  int value_dim = 0;                   // without the normaliser
  bool normalizer = false;             // the last column divides: o / (o_last + 1e-10) or, with
  float normalizer_floor = 0;          // a floor, o / max(o_last, floor)
  Matrix skip;                         // [token, heads * value_dim]; data nullptr: none
  const float* skip_weight = nullptr;  // [heads * value_dim]; not with kGroup
  OutputNorm norm = OutputNorm::kBeforeGate;
  const float* weight = nullptr;  // [value_dim], nullptr: ones
  bool weight_per_head = false;   // the weight is [heads, value_dim]
  const float* bias = nullptr;    // [heads * value_dim], with kGroup
  float eps = 1e-6f;
  Matrix gate;  // [token, heads * value_dim]; data nullptr: no gate
  Activation gate_activation = Activation::kNone;
  Matrix y;                    // [token, heads * value_dim]
  bool feeds_product = false;  // as in NormArgs
};

// y = act(gate) * up, or act(gate) where there is no up.
struct MlpActivationArgs {
  Matrix gate_up;  // [token, 2 * size]: gate, then up; [token, size] where there is no up
  bool has_up = true;
  Matrix y;  // [token, size]
  int size = 0;
  Activation activation = Activation::kSilu;
  // As in NormArgs; and gate_up is read by no other, so a device may leave it unwritten. Only with
  // has_up.
  bool feeds_product = false;
};

struct SampleArgs {
  Matrix logits;  // [logit, vocab] fp32; only read
  int vocab = 0;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_OPERATIONS_H_
