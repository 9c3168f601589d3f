// What the banked driver multiplies reads and entries with: the formulas of a memory's Banks,
// applied to one head of one row. Owned by the task that advances it
// (kernels/cpu/banked_advance.cc).
#ifndef EVENFLOW_KERNELS_CPU_BANK_WEIGHTS_H_
#define EVENFLOW_KERNELS_CPU_BANK_WEIGHTS_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/banked_entries.h"
#include "kernels/math/fenwick.h"
#include "kernels/math/power_law.h"

namespace evenflow {

// The weights r, W, d and c of
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

// Power laws: r_i = e^{-s (i - p)}, W_ij = w_{i-j}(alpha_j); every bank takes in every block, with
// c_j(alpha) e^{-s (p - j)}, p as PowerLawBanks has it.
template <class Memory>
class BankWeights<Memory, PowerLawBanks> {
 public:
  BankWeights(const AdvanceArgs& args, const BankedEntries<Memory>& head, int /*index*/)
      : law_(args.power_law), window_(args.window), head_(head) {}

  int count() const { return law_.nodes; }

  bool Live(int bank, int64_t blocks) const { return PowerLawBanks().Live(bank, blocks); }

  bool Takes(int /*bank*/, int64_t /*blocks*/) const { return true; }

  int Carried(int /*bank*/) const { return 0; }

  // Token by token, w_k follows from w_{k-1}: by the same products, whoever the first token was.
  void WeighPairs(int64_t i, int64_t base, int entries, float* weights) {
    if (base == base_ && i == newest_ + 1) {
      for (size_t e = 0; e < alphas_.size(); ++e) {
        lag_weights_[e] *= PowerLawRatio(alphas_[e], entries - 1 - static_cast<int>(e));
      }
      alphas_.push_back(head_.Beta(i));
      lag_weights_.push_back(1);
    } else if (base != base_ || i != newest_) {
      alphas_.resize(static_cast<size_t>(entries));
      for (int e = 0; e < entries; ++e) {
        alphas_[static_cast<size_t>(e)] = head_.Beta(base + e);
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

  float Read(int64_t i, int bank) const {
    return PowerLawBanks::Decay(law_.rates[bank], i - Reference(bank, window_.Base(i)));
  }

  float Decay(int bank, int64_t last) const {
    const int64_t end = last + 1;
    return PowerLawBanks::Decay(law_.rates[bank],
                                Reference(bank, end) - Reference(bank, end - window_.commit));
  }

  float Entry(int bank, int64_t last, int64_t j) const {
    return law_.Coefficient(bank, head_.Beta(j)) *
           PowerLawBanks::Decay(law_.rates[bank], Reference(bank, last + 1) - j);
  }

 private:
  int64_t Reference(int bank, int64_t position) const {
    return PowerLawBanks::Reference(law_.rates[bank], position, window_.commit);
  }

  const PowerLaw& law_;
  const Window& window_;
  const BankedEntries<Memory>& head_;
  int64_t base_ = -1, newest_ = -1;
  std::vector<float> alphas_, lag_weights_;  // of the entries of the newest token
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_BANK_WEIGHTS_H_
