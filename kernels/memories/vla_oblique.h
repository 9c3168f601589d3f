// VLA (arXiv 2605.11196) that erases along the key and writes
// along what the preconditioner (kernels/precondition.h) makes of it, modes unit, exact and v3:
// S <- gamma S; S <- S + w (beta (v - S^T k^))^T.
#ifndef EVENFLOW_KERNELS_MEMORIES_VLA_OBLIQUE_H_
#define EVENFLOW_KERNELS_MEMORIES_VLA_OBLIQUE_H_

#include "kernels/memory.h"

namespace evenflow {

struct VlaOblique {
  static constexpr const char* kName = "vla_oblique";
  static constexpr Decay kDecay = Decay::kConstant;
  static constexpr Entry kEntries[] = {{true, Erase::kOwnKey}};
  static constexpr bool kHasBeta = true;
  static constexpr Bound kBound = Bound::kNone;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_VLA_OBLIQUE_H_
