#include <cmath>
#include <cstring>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/feature_map.h"
#include "kernels/cpu/level_weights.h"
#include "kernels/cpu/rotary.h"
#include "kernels/cpu/step.h"
#include "kernels/math/activations.h"
#include "kernels/math/decay_gate.h"
#include "kernels/math/head_norm.h"

namespace evenflow {
namespace {

// What becomes of one token's queries or keys.
struct Heads {
  const FeatureMapArgs& map;
  HeadNorm norm;
  int heads;
  float scale;
  float* out;  // [heads, key_dim]
};

void NormHead(HeadNorm norm, float scale, int dim, float* x) {
  float sum = 0;
  if (SumsSquares(norm)) {
    sum = Sum(dim, [&](int64_t i) { return x[i] * x[i]; });
  } else if (norm != HeadNorm::kNone) {
    sum = Sum(dim, [&](int64_t i) { return x[i]; });
  }
  const float factor = HeadNormFactor(norm, sum) * scale;
  if (factor != 1.0f) {
    for (int i = 0; i < dim; ++i) {
      x[i] *= factor;
    }
  }
}

void PrepareHeads(const MemoryInputsArgs& args, const Heads& heads, const float* from,
                  const RotaryTable& rotary) {
  MapHeads(heads.map, heads.heads, args.raw_key_dim, from, heads.out);
  for (int head = 0; head < heads.heads; ++head) {
    float* const x = heads.out + static_cast<int64_t>(head) * args.shape.key_dim;
    NormHead(heads.norm, heads.scale, args.shape.key_dim, x);
    if (args.rotary_base > 0) {
      rotary.Rotate(x);
    }
  }
}

void PrepareValues(const MemoryInputsArgs& args, const float* from, float* v) {
  for (int head = 0; head < args.shape.value_heads; ++head) {
    std::memcpy(v, from, static_cast<size_t>(args.raw_value_dim) * sizeof(float));
    if (args.ones_column) {
      v[args.raw_value_dim] = 1.0f;
    }
    from += args.raw_value_dim;
    v += args.shape.value_dim;
  }
}

void PrepareDecays(const MemoryInputsArgs& args, const float* from, int64_t token) {
  const MemoryShape& shape = args.shape;
  const int channels = args.decay_channels;
  float* g = args.log_decay + token * shape.heads * channels;
  for (int head = 0; head < shape.heads; ++head) {
    for (int c = 0; c < channels; ++c) {
      const int64_t channel = int64_t{head} * channels + c;
      g[channel] = LogDecay(args.decay, head, channel, from[channel]);
    }
  }
  if (args.decay.gate == DecayGate::kLowerBounded) {
    float* k = args.k + token * shape.heads * channels;
    for (int i = 0; i < shape.heads * channels; ++i) {
      k[i] = KeyOfDecay(g[i]);
    }
  }
}

// v <- D v; each state has values of its own.
void ScaleValues(const MemoryInputsArgs& args, const float* from, int64_t token) {
  const int dim = args.shape.value_dim;
  for (int head = 0; head < args.shape.heads; ++head) {
    const float bias = args.decay.bias == nullptr ? 0.0f : args.decay.bias[head];
    const float step = TimeStep(from[head] + bias, args.decay.low, args.decay.high);
    float* const v = args.v + (token * args.shape.heads + head) * dim;
    for (int i = 0; i < dim; ++i) {
      v[i] *= step;
    }
  }
}

void PrepareWriteStrengths(const MemoryInputsArgs& args, const float* projected, int64_t token) {
  const int heads = args.shape.heads;
  for (int head = 0; head < heads; ++head) {
    const float write = args.beta_column < 0 ? 1.0f : Sigmoid(projected[args.beta_column + head]);
    args.beta[token * heads + head] = args.beta_low + (args.beta_scale - args.beta_low) * write;
  }
}

}  // namespace

void CpuMemoryInputs(const MemoryInputsArgs& args, const CpuStep& step, WorkerPool& pool) {
  const MemoryShape& shape = args.shape;
  const int64_t query_size = static_cast<int64_t>(shape.query_heads) * shape.key_dim;
  const int64_t key_size = static_cast<int64_t>(shape.key_heads) * shape.key_dim;
  const int64_t value_size = static_cast<int64_t>(shape.value_heads) * shape.value_dim;
  const bool projects = args.q_map.w1 != nullptr || args.k_map.w1 != nullptr;
  const int64_t work = (query_size + key_size) * (projects ? args.raw_key_dim / 4 + 4 : 4) +
                       int64_t{shape.heads} * args.decay_channels * 16;
  ForItems(pool, static_cast<int64_t>(step.tokens.size()), work + value_size, [&](int64_t token) {
    thread_local RotaryTable rotary;
    if (args.rotary_base > 0) {
      rotary.SetPosition(args.rotary_base, shape.key_dim,
                         step.positions[static_cast<size_t>(token)]);
    }
    const float* const projected = RowOf(args.projected, token);
    PrepareHeads(
        args,
        {args.q_map, args.q_norm, shape.query_heads, args.q_scale, args.q + token * query_size},
        projected + args.q_column, rotary);
    if (args.k_column >= 0) {
      PrepareHeads(args,
                   {args.k_map, args.k_norm, shape.key_heads, 1.0f, args.k + token * key_size},
                   projected + args.k_column, rotary);
    }
    PrepareValues(args, projected + args.v_column, args.v + token * value_size);
    if (args.decay_column >= 0) {
      PrepareDecays(args, projected + args.decay_column, token);
    }
    if (args.decay.gate == DecayGate::kTimeStep) {
      ScaleValues(args, projected + args.decay_column, token);
    }
    if (args.beta != nullptr) {
      PrepareWriteStrengths(args, projected, token);
    }
  });
  if (args.level_weights.column >= 0) {
    LevelWeights(args, step, pool);
  }
}

}  // namespace evenflow
