// State space duality (Mamba-2, arXiv 2405.21060, equation 1 with a scalar A): S <- e^g S + B (D
// x)^T, o = S^T C, D being the time step, B the key, C the query.
#ifndef EVENFLOW_KERNELS_MEMORIES_STATE_SPACE_DUALITY_H_
#define EVENFLOW_KERNELS_MEMORIES_STATE_SPACE_DUALITY_H_

#include "kernels/memory.h"

namespace evenflow {

struct StateSpaceDuality {
  static constexpr const char* kName = "state_space_duality";
  static constexpr Decay kDecay = Decay::kScalar;
  static constexpr Entry kEntries[] = {{true, Erase::kNothing}};
  static constexpr bool kHasBeta = false;
  static constexpr Bound kBound = Bound::kLinear;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_STATE_SPACE_DUALITY_H_
