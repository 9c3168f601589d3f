// What the operations of RWKV-7's layers read and write, beside those in kernels/operations.h. No
// thread rules of its own.
#ifndef EVENFLOW_KERNELS_RWKV7_OPERATIONS_H_
#define EVENFLOW_KERNELS_RWKV7_OPERATIONS_H_

#include <cstddef>

#include "kernels/math/host_device.h"
#include "kernels/operations.h"

namespace evenflow {

// Mixes each token with the one before it, as often as there are streams:
//   y_s(t) = x(t) + (x(t - 1) - x(t)) mix_s, x(-1) being 0.
// Inputs live in a ring [1 + rollback, channels] of fp32 in the session's slot.
struct TokenShiftArgs {
  Matrix x;  // [token, channels]
  Matrix y;  // [token, streams * channels]; not where x is
  int channels = 0;
  int streams = 1;
  const float* mix = nullptr;  // [streams, channels]
  Slots slots;
  size_t ring_offset = 0;
  int rollback = 0;

  EVENFLOW_HOST_DEVICE int ring() const { return 1 + rollback; }
};

// What RWKV-7 (arXiv 2503.14456, section 4) makes of its projections besides, after MemoryInputs
// gave q, v and the log decay g: the keys of GeneralizedDeltaRule, values mixed with those of the
// first layer, and a bonus that the output adds. For each head, with x_r and x_m the projections of
// the rate and of the mix:
//   a = sigmoid(x_r);   kappa = norm(k erase_weight);   k' = k (1 + (a - 1) rate_weight)
//   w = (a kappa, k');   e = e^-g kappa
//   v <- v + (first_v - v) sigmoid(x_m), or first_v <- v where there is no mix
//   bonus = (sum q k' bonus_weight) v
struct GeneralizedDeltaKeysArgs {
  Matrix projected;  // [token, ...]; the columns of v become the bonus
  // First column in `projected` of each part; -1: absent.
  int k_column = 0, v_column = 0, rate_column = 0, mix_column = -1;
  const float* erase_weight = nullptr;  // [heads, key_dim]
  const float* rate_weight = nullptr;   // [heads, key_dim]
  const float* bonus_weight = nullptr;  // [heads, key_dim]
  HeadNorm norm = HeadNorm::kL2;        // of kappa: kL2 or kUnit
  MemoryShape shape;                    // without groups
  // fp32, contiguous.
  const float* q = nullptr;          // [token, heads, key_dim]
  const float* log_decay = nullptr;  // [token, heads, key_dim]
  float* v = nullptr;                // [token, heads, value_dim], changed
  float* first_v = nullptr;          // [token, heads, value_dim], for all layers of a step
  float* k = nullptr;                // [token, heads, 2, key_dim]: w
  float* e = nullptr;                // [token, heads, key_dim]
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_RWKV7_OPERATIONS_H_
