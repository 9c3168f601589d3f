// VLA (arXiv 2605.11196) that erases along the direction it writes, modes star and sym:
// S <- gamma S, then as the delta rule with a unit key w from the preconditioner
// (kernels/precondition.h), so that the step I - beta w w^T never amplifies.
#ifndef EVENFLOW_KERNELS_MEMORIES_VLA_SYMMETRIC_H_
#define EVENFLOW_KERNELS_MEMORIES_VLA_SYMMETRIC_H_

#include "kernels/memory.h"

namespace evenflow {

struct VlaSymmetric {
  static constexpr const char* kName = "vla_symmetric";
  static constexpr Decay kDecay = Decay::kConstant;
  static constexpr Entry kEntries[] = {{true, Erase::kWrittenKey}};
  static constexpr bool kHasBeta = true;
  static constexpr Bound kBound = Bound::kSqrt;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_VLA_SYMMETRIC_H_
