// VLA (arXiv 2605.11196) as recursive least squares, mode rls: S <- gamma S; S <- S - w_1 (S^T
// e_1)^T, which takes the preconditioner's leak for an observation of 0; S <- S + w (beta (v - S^T
// k^))^T. w, e and k^ come from kernels/precondition.h.
#ifndef EVENFLOW_KERNELS_MEMORIES_VLA_LEAST_SQUARES_H_
#define EVENFLOW_KERNELS_MEMORIES_VLA_LEAST_SQUARES_H_

#include "kernels/memory.h"

namespace evenflow {

struct VlaLeastSquares {
  static constexpr const char* kName = "vla_least_squares";
  static constexpr Decay kDecay = Decay::kConstant;
  static constexpr Entry kEntries[] = {{false, Erase::kOwnKey}, {true, Erase::kOwnKey}};
  static constexpr bool kHasBeta = true;
  static constexpr Bound kBound = Bound::kNone;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_VLA_LEAST_SQUARES_H_
