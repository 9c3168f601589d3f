// The vectorised pieces of the memory driver (kernels/cpu/head_advance.h), dispatched to the
// machine's widest instruction set. Pure functions of their arguments; any thread. No result
// depends on how columns are split over calls, nor on how many products one call takes.
#ifndef EVENFLOW_KERNELS_CPU_STATE_PASS_H_
#define EVENFLOW_KERNELS_CPU_STATE_PASS_H_

#include <cstdint>

#include "kernels/tensor.h"

namespace evenflow {

// One pass over columns of a head's state S [key_dim, stride]: reads every element once, folds
// pending blocks into it in order, S <- diag(decay) S + sum_j keys_j values_j^T, and multiplies the
// result with all of x: products[r] = S^T x_r. Writes S as it is after the first `stored` folds.
struct StatePass {
  void* state = nullptr;  // at the first of the columns
  DType dtype = DType::kF32;
  int key_dim = 0;
  int stride = 0;
  int columns = 0;

  int reads = 0;
  const float* const* x = nullptr;  // [reads] of [key_dim]
  float* products = nullptr;        // [reads, columns]
  bool add = false;                 // products += instead of products =

  int folds = 0;
  int stored = 0;                             // at most folds; 0: S is only read
  int entries = 0;                            // of a fold
  const float* decay = nullptr;               // [folds, key_dim]
  const float* const* fold_keys = nullptr;    // [folds, entries] of [key_dim]
  const float* const* fold_values = nullptr;  // [folds, entries], at the first of the columns
  // Set where stored > 0, of the stored elements of each column: the sum of squares and the largest
  // magnitude of those that are finite, and the number of the others.
  float* health = nullptr;  // [3, columns]
};

void PassState(const StatePass& pass);

// to[i] <- to[i] + from[i], rounded to what the state's type holds.
void AddStates(DType dtype, const void* from, void* to, int64_t count);

// out[i] = keys[i] . x
void Dots(const float* const* keys, int count, const float* x, int dim, float* out);

// y[c] <- scale y[c] + sum_i weights[i] rows[i][c], for `columns` columns.
struct WeightedRows {
  float scale = 1;
  const float* weights = nullptr;      // [count]
  const float* const* rows = nullptr;  // [count] of [columns]
  int count = 0;
};

void AddRows(const WeightedRows& sum, float* y, int columns);

// out[i, k] = x[i, k] e^{now[k] - then[k]}
struct ChannelDecay {
  const float* now = nullptr;   // [dim]
  const float* then = nullptr;  // [dim]; nullptr: zeros
  int dim = 0;
  int count = 1;  // of x and out, [count, dim]
};

void DecayChannels(const ChannelDecay& decay, const float* x, float* out);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_STATE_PASS_H_
