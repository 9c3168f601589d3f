// Kimi delta attention (KDA, arXiv 2510.26692, equation 1): S <- diag(e^g) S, then as the delta
// rule.
#ifndef EVENFLOW_KERNELS_MEMORIES_KIMI_DELTA_RULE_H_
#define EVENFLOW_KERNELS_MEMORIES_KIMI_DELTA_RULE_H_

#include "kernels/memory.h"

namespace evenflow {

struct KimiDeltaRule {
  static constexpr const char* kName = "kimi_delta_rule";
  static constexpr Decay kDecay = Decay::kChannel;
  static constexpr Entry kEntries[] = {{true, Erase::kWrittenKey}};
  static constexpr bool kHasBeta = true;
  static constexpr Bound kBound = Bound::kSqrt;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_KIMI_DELTA_RULE_H_
