// What the banked driver multiplies reads and entries with: the formulas of a memory's Banks,
// applied to one head of one row. Owned by the task that advances it
// (kernels/cpu/banked_advance.cc).
#ifndef EVENFLOW_KERNELS_CPU_BANK_WEIGHTS_H_
#define EVENFLOW_KERNELS_CPU_BANK_WEIGHTS_H_

#include <cmath>
#include <cstdint>

#include "kernels/cpu/banked_entries.h"
#include "kernels/math/fenwick.h"

namespace evenflow {

// With A_i the factor that a bank's state takes by token i, and a pair weight W_ij:
//     o_i = sum_banks r_i S_0^T q_i + sum_{base <= j <= i} W_ij (k_j . q_i) v_j
//     fold: S_0 <- d S_0 + sum_j (c_j k_j) v_j^T
template <class Memory, class Banks = typename Memory::Banks>
class BankWeights;

// Levels: r_i = lambda_i e^{l_i}, W_ij = lambda_i e^{l_i - l_j}, each with the level's lambda; one
// bank takes in a block, with all that lies in those below it, and all banks decay together.
template <class Memory>
class BankWeights<Memory, FenwickBanks> {
 public:
  BankWeights(const AdvanceArgs& args, const BankedEntries<Memory>& head, int index)
      : args_(args),
        head_(head),
        index_(index),
        banks_(FenwickBanks::Of(args.shape, args.window, args.forgets_top)) {}

  int count() const { return banks_.count(); }

  // Whether a bank holds anything when that many blocks have been taken in.
  bool Live(int bank, int64_t blocks) const { return banks_.Live(bank, blocks); }

  // Whether a bank takes in the block after that many.
  bool Takes(int bank, int64_t blocks) const { return bank == banks_.Target(blocks); }

  // How many banks, from 0 on, go into this one when it takes in a block.
  int Carried(int bank) const { return bank; }

  // weights[e] *= W_ij for the entries j = base + e, 0 <= e < entries, of token i.
  void WeighPairs(int64_t i, int64_t base, int entries, float* weights) const {
    const float* lambda = LevelWeights(i);
    for (int e = 0; e < entries; ++e) {
      weights[e] *= lambda[banks_.Level(i, base + e)] * head_.DecayBetween(i, base + e);
    }
  }

  // r_i
  float Read(int64_t i, int bank) const {
    return LevelWeights(i)[banks_.LevelOf(bank)] * head_.DecaySinceBlock(i);
  }

  // d and c_j of the block whose last token is `last`.
  float Decay(int /*bank*/, int64_t last) const { return head_.DecaySinceBlock(last); }

  float Entry(int /*bank*/, int64_t last, int64_t j) const { return head_.DecayBetween(last, j); }

 private:
  const float* LevelWeights(int64_t i) const {
    return args_.level_weights + (head_.Token(i) * args_.shape.heads + index_) * args_.shape.banks;
  }

  const AdvanceArgs& args_;
  const BankedEntries<Memory>& head_;
  const int index_;
  const FenwickBanks banks_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_BANK_WEIGHTS_H_
