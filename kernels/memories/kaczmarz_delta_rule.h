// The delta rule with Kaczmarz's step (Kaczmarz linear attention, arXiv 2605.08587): S <- e^g S,
// then as the delta rule with beta = eta / (|k|^2 + 1e-6). With eta = 1 that is the projection onto
// the states that recall v by k, however long k is.
#ifndef EVENFLOW_KERNELS_MEMORIES_KACZMARZ_DELTA_RULE_H_
#define EVENFLOW_KERNELS_MEMORIES_KACZMARZ_DELTA_RULE_H_

#include "kernels/math/host_device.h"
#include "kernels/memory.h"

namespace evenflow {

struct KaczmarzDeltaRule {
  static constexpr const char* kName = "kaczmarz_delta_rule";
  static constexpr Decay kDecay = Decay::kScalar;
  static constexpr Entry kEntries[] = {{true, Erase::kWrittenKey}};
  static constexpr bool kHasBeta = true;
  static constexpr Bound kBound = Bound::kNone;  // a short key writes v / |k|

  static EVENFLOW_HOST_DEVICE float Strength(float eta, float key_square) {
    return eta / (key_square + 1e-6f);
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_KACZMARZ_DELTA_RULE_H_
