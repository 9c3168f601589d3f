#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/step.h"
#include "kernels/math/generalized_delta.h"
#include "kernels/math/head_norm.h"

namespace evenflow {
namespace {

// w and e of a token's head; returns sum q k' bonus_weight.
float PrepareKeys(const GeneralizedDeltaKeysArgs& args, int64_t token, int head) {
  const int dim = args.shape.key_dim;
  const int64_t first = int64_t{head} * dim;  // channel
  const int64_t index = (token * args.shape.heads + head) * dim;
  const float* const row = RowOf(args.projected, token);
  const float* const k = row + args.k_column + first;
  const float* const rate = row + args.rate_column + first;
  const float* const erase_weight = args.erase_weight + first;
  float* const erasing = args.k + 2 * index;
  float* const written = erasing + dim;
  const auto raw = [&](int64_t i) { return k[i] * erase_weight[i]; };
  const float factor =
      HeadNormFactor(args.norm, Sum(dim, [&](int64_t i) { return raw(i) * raw(i); }));
  for (int i = 0; i < dim; ++i) {
    const GeneralizedKeys keys = KeysOf(k[i], raw(i) * factor, rate[i], args.rate_weight[first + i],
                                        args.log_decay[index + i]);
    erasing[i] = keys.erasing;
    written[i] = keys.written;
    args.e[index + i] = keys.erased;
  }
  const float* const q = args.q + index;
  const float* const bonus_weight = args.bonus_weight + first;
  return Sum(dim, [&](int64_t i) { return q[i] * written[i] * bonus_weight[i]; });
}

void PrepareValues(const GeneralizedDeltaKeysArgs& args, int64_t token, int head, float bonus) {
  const int dim = args.shape.value_dim;
  const int64_t index = (token * args.shape.heads + head) * dim;
  float* const row = MutableRowOf(args.projected, token) + int64_t{head} * dim;
  float* const v = args.v + index;
  float* const first_v = args.first_v + index;
  for (int i = 0; i < dim; ++i) {
    if (args.mix_column >= 0) {
      v[i] = MixedValue(v[i], first_v[i], row[args.mix_column + i]);
    } else {
      first_v[i] = v[i];
    }
    row[args.v_column + i] = bonus * v[i];
  }
}

}  // namespace

void CpuGeneralizedDeltaKeys(const GeneralizedDeltaKeysArgs& args, const CpuStep& step,
                             WorkerPool& pool) {
  const int heads = args.shape.heads;
  const int64_t work = int64_t{16} * (args.shape.key_dim + args.shape.value_dim);
  ForItems(pool, static_cast<int64_t>(step.tokens.size()) * heads, work, [&](int64_t item) {
    const auto head = static_cast<int>(item % heads);
    PrepareValues(args, item / heads, head, PrepareKeys(args, item / heads, head));
  });
}

}  // namespace evenflow
