// The generalised delta rule (RWKV-7, arXiv 2503.14456, section 4): S <- diag(e^g) S - p (S_old^T
// kappa)^T, S <- S + k v^T, o = S^T q, with a unit key kappa to be erased and p = a kappa, a being
// one rate in [0, 1] for each channel.
//
// What is erased is read from the state before its decay. Here it is read after, by the key e =
// e^{-g} kappa, which is the same; the model keeps g above -0.61.
#ifndef EVENFLOW_KERNELS_MEMORIES_GENERALIZED_DELTA_RULE_H_
#define EVENFLOW_KERNELS_MEMORIES_GENERALIZED_DELTA_RULE_H_

#include "kernels/memory.h"

namespace evenflow {

struct GeneralizedDeltaRule {
  static constexpr const char* kName = "generalized_delta_rule";
  static constexpr Decay kDecay = Decay::kChannel;
  static constexpr Entry kEntries[] = {{false, Erase::kOwnKey}, {true, Erase::kNothing}};
  static constexpr bool kHasBeta = false;
  // One step is similar to a contraction, in a basis that depends on its a. With a varying from
  // token to token nothing bounds the products of such steps: inputs chosen against it grow the
  // state by 12 % a token.
  static constexpr Bound kBound = Bound::kNone;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_GENERALIZED_DELTA_RULE_H_
