// What window attention reads and writes, the operation of a hybrid model's layers that have no
// memory. Plain data.
#ifndef EVENFLOW_KERNELS_WINDOW_ATTENTION_H_
#define EVENFLOW_KERNELS_WINDOW_ATTENTION_H_

#include <cstddef>

#include "kernels/tensor.h"

namespace evenflow {

// Causal softmax attention over the `window` newest tokens, the current one included, with grouped
// key heads. Queries and keys are rotated first (half-split rotary, absolute positions); that may
// happen in place:
//   y_h(t) = sum_j p_j v_j with p = softmax(q_h . k_j / sqrt(head_dim)) over t - window < j <= t.
// Keys and values of earlier tokens live in a ring [keys, values; key_heads, entries, head_dim] of
// fp32 in the session's slot, indexed by absolute position.
struct WindowAttentionArgs {
  Matrix projected;  // [token, ...]
  // First column in `projected` of each part: q [heads, head_dim], k and v [key_heads, head_dim].
  int q_column = 0, k_column = 0, v_column = 0;
  int heads = 0;
  int key_heads = 0;  // a divisor of heads; query head h reads key head h * key_heads / heads
  int head_dim = 0;   // even
  int window = 1;
  float rotary_base = 10000;
  Slots slots;
  size_t ring_offset = 0;
  int rollback = 0;
  Matrix y;  // [token, heads * head_dim]

  constexpr int entries() const { return window - 1 + rollback; }

  size_t ring_bytes() const {
    return size_t{2} * sizeof(float) * static_cast<size_t>(key_heads) *
           static_cast<size_t>(entries()) * static_cast<size_t>(head_dim);
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_WINDOW_ATTENTION_H_
