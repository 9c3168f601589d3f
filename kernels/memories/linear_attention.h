// Linear attention (arXiv 2006.16236, equations 16 to 19): S <- S + k v^T, o = S^T q. The
// normaliser, where a model has one, is an extra value column of ones.
#ifndef EVENFLOW_KERNELS_MEMORIES_LINEAR_ATTENTION_H_
#define EVENFLOW_KERNELS_MEMORIES_LINEAR_ATTENTION_H_

#include "kernels/memory.h"

namespace evenflow {

struct LinearAttention {
  static constexpr const char* kName = "linear_attention";
  static constexpr Decay kDecay = Decay::kNone;
  static constexpr Entry kEntries[] = {{true, Erase::kNothing}};
  static constexpr bool kHasBeta = false;
  static constexpr Bound kBound = Bound::kLinear;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_LINEAR_ATTENTION_H_
