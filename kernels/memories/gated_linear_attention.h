// Gated linear attention (GLA, arXiv 2312.06635, equation 3): S <- diag(e^g) S + k v^T, o = S^T q.
// HGRN2 (arXiv 2404.07904) is the same memory with k = 1 - e^g.
#ifndef EVENFLOW_KERNELS_MEMORIES_GATED_LINEAR_ATTENTION_H_
#define EVENFLOW_KERNELS_MEMORIES_GATED_LINEAR_ATTENTION_H_

#include "kernels/memory.h"

namespace evenflow {

struct GatedLinearAttention {
  static constexpr const char* kName = "gated_linear_attention";
  static constexpr Decay kDecay = Decay::kChannel;
  static constexpr Entry kEntries[] = {{true, Erase::kNothing}};
  static constexpr bool kHasBeta = false;
  static constexpr Bound kBound = Bound::kLinear;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_GATED_LINEAR_ATTENTION_H_
