// The entries of one head of one row of a banked memory: HeadMemory's, with values and write
// strengths as they came. Owned by the task that advances it (kernels/cpu/banked_advance.cc).
#ifndef EVENFLOW_KERNELS_CPU_BANKED_ENTRIES_H_
#define EVENFLOW_KERNELS_CPU_BANKED_ENTRIES_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/head_memory.h"

namespace evenflow {

template <class Memory>
class BankedEntries : public HeadMemory<Memory> {
 public:
  using Place = int64_t;  // tokens are named by their position

  BankedEntries(const AdvanceArgs& args, const MemoryLayout& layout, const RowState& state,
                int head, std::vector<float>* logs)
      : HeadMemory<Memory>(args, layout, state, head, logs),
        args_(args),
        row_(state.row),
        index_(head),
        ring_beta_(reinterpret_cast<float*>(state.layer + layout.beta) +
                   int64_t{head} * args.window.ring()) {}

  // v of the token at `p`, [value_dim]. Those of this step are not in their ring yet.
  const float* Value(int64_t p) const {
    return p < row_.position ? RingValue(p) : HeadMemory<Memory>::Value(p);
  }

  static int64_t Position(int64_t p) { return p; }

  // beta, where the memory has it.
  float Strength(int64_t p) const {
    return p < row_.position ? ring_beta_[p % args_.window.ring()] : HeadMemory<Memory>::Beta(p);
  }

  // With which a token of this step reads the levels, [banks].
  const float* LevelWeights(int64_t p) const {
    const MemoryShape& shape = args_.shape;
    return args_.level_weights + (this->Token(p) * shape.heads + index_) * shape.banks;
  }

  // Puts the row's entries into their rings, once all columns have been run.
  void Append() {
    this->AppendKeys();
    const int64_t end = row_.position + row_.tokens;
    for (int64_t p = std::max(row_.position, end - args_.window.ring()); p < end; ++p) {
      std::copy_n(Value(p), args_.shape.value_dim, RingValue(p));
      if constexpr (Memory::kHasBeta) {
        ring_beta_[p % args_.window.ring()] = Strength(p);
      }
    }
  }

 private:
  float* RingValue(int64_t p) const { return this->Values(p); }

  const AdvanceArgs& args_;
  const Row row_;
  const int index_;
  float* const ring_beta_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_BANKED_ENTRIES_H_
