// VORT (arXiv 2605.08966, equations 2 to 5): o_t = sum_i w_{t-i}(alpha_i) v_i (k_i . q_t), power
// laws whose exponents the written tokens choose (kernels/math/power_law.h); alpha travels as beta.
// Old tokens are summed in states that decay exponentially, S_j <- e^{-s_j} S_j + c_j(alpha) k v^T.
#ifndef EVENFLOW_KERNELS_MEMORIES_VORT_H_
#define EVENFLOW_KERNELS_MEMORIES_VORT_H_

#include "kernels/math/power_law.h"
#include "kernels/memory.h"

namespace evenflow {

struct Vort {
  static constexpr const char* kName = "vort";
  static constexpr Decay kDecay = Decay::kNone;
  static constexpr Entry kEntries[] = {{true, Erase::kNothing}};
  static constexpr bool kHasBeta = true;
  static constexpr Bound kBound = Bound::kLinear;
  using Banks = PowerLawBanks;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_VORT_H_
