// Log-linear attention over the gated delta rule (arXiv 2605.06946): every level's state takes the
// same transition S_l <- gamma (I - beta k k^T) S_l, the token's own gets beta k v^T besides, and
// o_t = sum_l lambda_t^(l) S_l^T q (kernels/math/fenwick.h).
#ifndef EVENFLOW_KERNELS_MEMORIES_LOG_LINEAR_DELTA_RULE_H_
#define EVENFLOW_KERNELS_MEMORIES_LOG_LINEAR_DELTA_RULE_H_

#include "kernels/math/fenwick.h"
#include "kernels/memory.h"

namespace evenflow {

struct LogLinearDeltaRule {
  static constexpr const char* kName = "log_linear_delta_rule";
  static constexpr Decay kDecay = Decay::kScalar;
  static constexpr Entry kEntries[] = {{true, Erase::kWrittenKey}};
  static constexpr bool kHasBeta = true;
  static constexpr Bound kBound = Bound::kSqrt;
  using Banks = FenwickBanks;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_LOG_LINEAR_DELTA_RULE_H_
