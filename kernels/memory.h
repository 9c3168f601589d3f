// The contract of a recurrent memory: what kernels/memories/*.h declare, and the shapes around it.
//
// Per head, with a state S [d_k, d_v] (key-major, value contiguous), every memory served here is
//     S <- decay(S);   u = alpha v - beta (S^T e);   S <- S + w u^T;   o = S^T q
// where each of the knobs is fixed by the memory. Instead of writing S for every token, a session
// keeps S as of its last commit and a pending window of entries (w, u, cumulative log decay l):
//     S_i^T x = S_0^T (e^{l_i} x) + sum_{j <= i} u_j ((w_j e^{l_i - l_j}) . x)        for x = e or
//     q commit:  S_0 <- e^{l_C} S_0 + sum_j (w_j e^{l_C - l_j}) u_j^T                   once every
//     C tokens
// Only differences l_i - l_j <= 0 are ever exponentiated. See the README, "How to add a memory".
#ifndef EVENFLOW_KERNELS_MEMORY_H_
#define EVENFLOW_KERNELS_MEMORY_H_

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace evenflow {

// How the state decays before each token.
enum class Decay : uint8_t {
  kNone,      // never
  kConstant,  // by a constant of the head: log decay [head]
  kScalar,    // by one number for each token and head: log decay [token, head]
  kChannel,   // by one number for each token, head and key channel: log decay [token, head, d_k]
};

// What a memory's entry subtracts from the value that it writes: beta (S^T e).
enum class Erase : uint8_t {
  kNothing,     // additive: u = v
  kWrittenKey,  // delta rule: e = w, read from the decayed state
};

// Shapes of one layer's memory. State head h reads key head h * key_heads / heads, and likewise
// value and query heads; with query_heads > heads, several queries share one state.
struct MemoryShape {
  int heads = 0;        // states
  int query_heads = 0;  // a multiple or a divisor of heads
  int key_heads = 0;    // a divisor of heads
  int value_heads = 0;  // a divisor of heads
  int key_dim = 0;      // d_k
  int value_dim = 0;    // d_v, a normaliser's column of ones included

  int output_heads() const { return query_heads > heads ? query_heads : heads; }
};

// How many tokens a session holds beside its committed state. Fixed when a model is loaded.
struct Window {
  int commit = 16;   // C: tokens [mC, (m+1)C) are committed together; 1 is the classic recurrence
  int rollback = 2;  // R: that many of the newest tokens are never committed

  // Entries of a ring that is indexed by absolute position.
  int ring() const { return commit + rollback; }

  // Tokens that are in the committed state once `position` tokens have been read. A function of the
  // position alone, so results do not depend on how tokens arrived.
  int64_t Committed(int64_t position) const {
    return position < rollback ? 0 : (position - rollback) / commit * commit;
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORY_H_
