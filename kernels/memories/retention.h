// Retention (RetNet, arXiv 2307.08621, equation 6): S <- gamma_h S + k v^T, o = S^T q.
#ifndef EVENFLOW_KERNELS_MEMORIES_RETENTION_H_
#define EVENFLOW_KERNELS_MEMORIES_RETENTION_H_

#include "kernels/memory.h"

namespace evenflow {

struct Retention {
  static constexpr const char* kName = "retention";
  static constexpr Decay kDecay = Decay::kConstant;
  static constexpr Entry kEntries[] = {{true, Erase::kNothing}};
  static constexpr bool kHasBeta = false;
  static constexpr Bound kBound = Bound::kConstant;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_RETENTION_H_
