// The delta rule (DeltaNet, arXiv 2406.06484, equation 4): S <- S + k (beta (v - S^T k))^T, o = S^T
// q.
#ifndef EVENFLOW_KERNELS_MEMORIES_DELTA_RULE_H_
#define EVENFLOW_KERNELS_MEMORIES_DELTA_RULE_H_

#include "kernels/memory.h"

namespace evenflow {

struct DeltaRule {
  static constexpr const char* kName = "delta_rule";
  static constexpr Decay kDecay = Decay::kNone;
  static constexpr Entry kEntries[] = {{true, Erase::kWrittenKey}};
  static constexpr bool kHasBeta = true;
  static constexpr Bound kBound = Bound::kSqrt;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_DELTA_RULE_H_
