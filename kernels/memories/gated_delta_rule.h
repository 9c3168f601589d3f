// The gated delta rule (Gated DeltaNet, arXiv 2412.06464, equation 10): S <- e^g S, then as the
// delta rule.
#ifndef EVENFLOW_KERNELS_MEMORIES_GATED_DELTA_RULE_H_
#define EVENFLOW_KERNELS_MEMORIES_GATED_DELTA_RULE_H_

#include "kernels/memory.h"

namespace evenflow {

struct GatedDeltaRule {
  static constexpr const char* kName = "gated_delta_rule";
  static constexpr Decay kDecay = Decay::kScalar;
  static constexpr Entry kEntries[] = {{true, Erase::kWrittenKey}};
  static constexpr bool kHasBeta = true;
  static constexpr Bound kBound = Bound::kSqrt;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_GATED_DELTA_RULE_H_
