// How the level weights of log-linear attention come from a projection: a part of
// MemoryInputsArgs. Plain data.
#ifndef EVENFLOW_KERNELS_LEVEL_WEIGHTS_H_
#define EVENFLOW_KERNELS_LEVEL_WEIGHTS_H_

namespace evenflow {

// With what weights lambda > 0 a token reads the levels of log-linear attention, from a projection
// x of one number a head and level:
//   lambda = softplus(w2 gelu(w1 x + b1) + b2), shared by the heads, or
//   lambda = softplus(scale x), element by element, where there is no w1.
// Without a column it does nothing.
struct LevelWeightsArgs {
  int column = -1;  // first column of x [heads, banks] in the projections
  int hidden = 0;
  const float* w1 = nullptr;     // [hidden, banks]
  const float* b1 = nullptr;     // [hidden]
  const float* w2 = nullptr;     // [banks, hidden]
  const float* b2 = nullptr;     // [banks]
  const float* scale = nullptr;  // [heads, banks]
  float* out = nullptr;          // [token, heads, banks]
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_LEVEL_WEIGHTS_H_
