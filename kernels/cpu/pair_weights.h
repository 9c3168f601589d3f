// W_ij of a token's entries (kernels/math/bank_weights.h). Owned by the task that advances the head
// (kernels/cpu/banked_advance.cc).
#ifndef EVENFLOW_KERNELS_CPU_PAIR_WEIGHTS_H_
#define EVENFLOW_KERNELS_CPU_PAIR_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "kernels/math/bank_weights.h"

namespace evenflow {

template <class Head, class Banks>
class PairWeights {
 public:
  PairWeights(const Head& /*head*/, const BankWeights<Head, Banks>& banks) : banks_(banks) {}

  // weights[e] *= W_ij for the entries j = base + e, 0 <= e < entries, of token i = base + entries
  // - 1.
  void Weigh(int64_t i, int64_t base, int entries, float* weights) {
    for (int e = 0; e < entries; ++e) {
      weights[e] *= banks_.Pair(i, base + e);
    }
  }

 private:
  const BankWeights<Head, Banks>& banks_;
};

// Token by token, w_k follows from w_{k-1}: by the same products, whoever the first token was.
template <class Head>
class PairWeights<Head, PowerLawBanks> {
 public:
  PairWeights(const Head& head, const BankWeights<Head, PowerLawBanks>& /*banks*/) : head_(head) {}

  void Weigh(int64_t i, int64_t base, int entries, float* weights) {
    if (base == base_ && i == newest_ + 1) {
      for (size_t e = 0; e < alphas_.size(); ++e) {
        lag_weights_[e] *= PowerLawRatio(alphas_[e], entries - 1 - static_cast<int>(e));
      }
      alphas_.push_back(head_.Strength(i));
      lag_weights_.push_back(1);
    } else if (base != base_ || i != newest_) {
      alphas_.resize(static_cast<size_t>(entries));
      for (int e = 0; e < entries; ++e) {
        alphas_[static_cast<size_t>(e)] = head_.Strength(base + e);
      }
      lag_weights_.assign(alphas_.size(), 1.0f);
      for (int k = 1; k < entries; ++k) {
        for (size_t e = 0; e < static_cast<size_t>(entries - k); ++e) {
          lag_weights_[e] *= PowerLawRatio(alphas_[e], k);
        }
      }
    }
    base_ = base;
    newest_ = i;
    for (int e = 0; e < entries; ++e) {
      weights[e] *= lag_weights_[static_cast<size_t>(e)];
    }
  }

 private:
  const Head& head_;
  int64_t base_ = -1, newest_ = -1;
  std::vector<float> alphas_, lag_weights_;  // of the entries of the newest token
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_PAIR_WEIGHTS_H_
