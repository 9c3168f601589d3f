// What memories with several states a head, their banks, multiply reads and entries with, for host
// and device: the weights r, W, d and c of
//     o_i = sum_banks r_i S_0^T q_i + sum_{base <= j <= i} W_ij (k_j . q_i) v_j
//     a block is taken in: S_0 <- d S_0 + sum_j (c_j k_j) v_j^T
// for one head of one row. A Head names tokens by its type Place, which counts them on, and has
//     Position(i)                                // the token's, from 0
//     DecayBetween(i, j), DecaySinceBlock(i)     // e^{l_i - l_j}, e^{l_i}
//     Strength(i)                                // beta, as the model gives it
//     LevelWeights(i)                            // lambda, [levels]
// as far as its memory has them. Owned by whoever owns the head; pure functions.
#ifndef EVENFLOW_KERNELS_MATH_BANK_WEIGHTS_H_
#define EVENFLOW_KERNELS_MATH_BANK_WEIGHTS_H_

#include <cstdint>

#include "kernels/math/fenwick.h"
#include "kernels/math/host_device.h"
#include "kernels/math/power_law.h"
#include "kernels/operations.h"

namespace evenflow {

template <class Head, class Banks>
class BankWeights;

// Levels: r_i = lambda_i e^{l_i}, W_ij = lambda_i e^{l_i - l_j}, each with the level's lambda; one
// bank takes in a block, with all that lies in those below it, and all banks decay together.
template <class Head>
class BankWeights<Head, FenwickBanks> {
 public:
  using Place = typename Head::Place;

  EVENFLOW_HOST_DEVICE BankWeights(const AdvanceArgs& args, const Head& head)
      : head_(head), banks_(FenwickBanks::Of(args.shape, args.window, args.forgets_top)) {}

  EVENFLOW_HOST_DEVICE int count() const { return banks_.count(); }

  // Whether a bank holds anything when that many blocks have been taken in.
  EVENFLOW_HOST_DEVICE bool Live(int bank, int64_t blocks) const {
    return banks_.Live(bank, blocks);
  }

  // Whether a bank takes in the block after that many.
  EVENFLOW_HOST_DEVICE bool Takes(int bank, int64_t blocks) const {
    return bank == banks_.Target(blocks);
  }

  // How many banks, from 0 on, go into this one when it takes in a block.
  EVENFLOW_HOST_DEVICE int Carried(int bank) const { return bank; }

  // W_ij
  EVENFLOW_HOST_DEVICE float Pair(Place i, Place j) const {
    return head_.LevelWeights(i)[banks_.Level(head_.Position(i), head_.Position(j))] *
           head_.DecayBetween(i, j);
  }

  // r_i; the state holds all before token `base`.
  EVENFLOW_HOST_DEVICE float Read(Place i, Place /*base*/, int bank) const {
    return head_.LevelWeights(i)[banks_.LevelOf(bank)] * head_.DecaySinceBlock(i);
  }

  // d and c_j of the block whose last token is `last`.
  EVENFLOW_HOST_DEVICE float Decay(int /*bank*/, Place last) const {
    return head_.DecaySinceBlock(last);
  }

  EVENFLOW_HOST_DEVICE float Entry(int /*bank*/, Place last, Place j) const {
    return head_.DecayBetween(last, j);
  }

 private:
  const Head& head_;
  const FenwickBanks banks_;
};

// Power laws: r_i = e^{-s (i - p)}, W_ij = w_{i-j}(beta_j); every bank takes in every block, with
// c_j(beta) e^{-s (p - j)}, p as PowerLawBanks has it.
template <class Head>
class BankWeights<Head, PowerLawBanks> {
 public:
  using Place = typename Head::Place;

  EVENFLOW_HOST_DEVICE BankWeights(const AdvanceArgs& args, const Head& head)
      : head_(head), law_(args.power_law), commit_(args.window.commit) {}

  EVENFLOW_HOST_DEVICE int count() const { return law_.nodes; }

  EVENFLOW_HOST_DEVICE bool Live(int bank, int64_t blocks) const {
    return PowerLawBanks().Live(bank, blocks);
  }

  EVENFLOW_HOST_DEVICE bool Takes(int /*bank*/, int64_t /*blocks*/) const { return true; }

  EVENFLOW_HOST_DEVICE int Carried(int /*bank*/) const { return 0; }

  EVENFLOW_HOST_DEVICE float Pair(Place i, Place j) const {
    const float alpha = head_.Strength(j);
    float weight = 1;
    for (int lag = 1; lag <= static_cast<int>(i - j); ++lag) {
      weight *= PowerLawRatio(alpha, lag);
    }
    return weight;
  }

  EVENFLOW_HOST_DEVICE float Read(Place i, Place base, int bank) const {
    return PowerLawBanks::Decay(law_.rates[bank], head_.Position(i) - Reference(bank, base));
  }

  EVENFLOW_HOST_DEVICE float Decay(int bank, Place last) const {
    return PowerLawBanks::Decay(law_.rates[bank],
                                Reference(bank, last + 1) - Reference(bank, last + 1 - commit_));
  }

  EVENFLOW_HOST_DEVICE float Entry(int bank, Place last, Place j) const {
    return law_.Coefficient(bank, head_.Strength(j)) *
           PowerLawBanks::Decay(law_.rates[bank], Reference(bank, last + 1) - head_.Position(j));
  }

 private:
  EVENFLOW_HOST_DEVICE int64_t Reference(int bank, Place at) const {
    return PowerLawBanks::Reference(law_.rates[bank], head_.Position(at), commit_);
  }

  const Head& head_;
  const PowerLaw& law_;
  const int commit_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MATH_BANK_WEIGHTS_H_
