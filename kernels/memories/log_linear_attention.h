// Log-linear attention with a scalar decay (arXiv 2605.06946 for weights lambda from the input):
// o_t = sum_l lambda_t^(l) S_l^T q, where S_l is the state gamma S + k v^T restricted to the tokens
// of level l (kernels/math/fenwick.h).
#ifndef EVENFLOW_KERNELS_MEMORIES_LOG_LINEAR_ATTENTION_H_
#define EVENFLOW_KERNELS_MEMORIES_LOG_LINEAR_ATTENTION_H_

#include "kernels/math/fenwick.h"
#include "kernels/memory.h"

namespace evenflow {

struct LogLinearAttention {
  static constexpr const char* kName = "log_linear_attention";
  static constexpr Decay kDecay = Decay::kScalar;
  static constexpr Entry kEntries[] = {{true, Erase::kNothing}};
  static constexpr bool kHasBeta = false;
  static constexpr Bound kBound = Bound::kLinear;
  using Banks = FenwickBanks;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_LOG_LINEAR_ATTENTION_H_
