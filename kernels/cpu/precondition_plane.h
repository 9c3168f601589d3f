// One head's A and z (kernels/precondition.h): where they and their pending rows lie in a slot, and
// what they are at the start of a block. Owned by the task that advances the head
// (kernels/cpu/precondition.cc).
#ifndef EVENFLOW_KERNELS_CPU_PRECONDITION_PLANE_H_
#define EVENFLOW_KERNELS_CPU_PRECONDITION_PLANE_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cpu/advance_rows.h"
#include "kernels/cpu/state_pass.h"
#include "kernels/math/precondition.h"
#include "kernels/precondition.h"

namespace evenflow {

// out = factor x, over the channels of a head.
inline void Scale(float factor, const float* x, int dim, float* out) {
  for (int i = 0; i < dim; ++i) {
    out[i] = factor * x[i];
  }
}

class PreconditionPlane {
 public:
  // Buffers of a thread, kept from call to call.
  struct Scratch {
    std::vector<float> plane;  // A at a block's start, where the stored one is older
    std::vector<float> sums;   // z, likewise
    std::vector<float> scaled_rows;
    std::vector<float> decay;
    std::vector<float> health;
    std::vector<const float*> keys;
    std::vector<const float*> values;
  };

  // `layer`: of the session's slot.
  PreconditionPlane(const PreconditionArgs& args, std::byte* layer, int head, Scratch* scratch)
      : of_(args.preconditioner),
        v3_(of_.mode == PreconditionMode::kV3),
        size_(static_cast<size_t>(of_.key_dim)),
        window_(WindowOf(of_, args.window)),
        layout_(LayoutOf(of_, args.window)),
        layer_(layer),
        head_(head),
        rows_per_token_(RowsPerToken(of_)),
        scratch_(*scratch) {}

  const Window& window() const { return window_; }

  int rows_per_token() const { return rows_per_token_; }

  // Tokens in the stored plane.
  int64_t& stored() const {
    return reinterpret_cast<int64_t*>(layer_ + layout_.committed_tokens)[head_];
  }

  // r of the token at `p`, one of rows_per_token().
  float* Row(int64_t p, int row) const {
    return At(layout_.rows, Entry(p) * rows_per_token_ + row);
  }

  // f(k) of the token at `p`.
  float* MappedKey(int64_t p) const { return At(layout_.keys, Entry(p)); }

  // A and z as SetBase left them: [key_dim, key_dim] and [key_dim].
  const float* base() const { return base_; }

  const float* base_sums() const { return base_sums_; }

  // Stores what they are before token 0.
  void Begin() {
    float* plane = StoredPlane();
    std::memset(plane, 0, size_ * size_ * sizeof(float));
    for (size_t i = 0; i < size_; ++i) {
      plane[i * size_ + i] = static_cast<float>(1 / of_.lambda0);
    }
    if (v3_) {
      std::memset(StoredSums(), 0, size_ * sizeof(float));
    }
    stored() = 0;
  }

  // Makes the base A and z at the block's start. Stores them as of `stored_after`, and if that is
  // later than before, the health of A in `health` [units of the head].
  void SetBase(int64_t block, int64_t stored_after, UnitHealth* health) {
    base_ = StoredPlane();
    base_sums_ = v3_ ? StoredSums() : nullptr;
    if (stored() == block) {
      return;
    }
    scratch_.plane.assign(base_, base_ + size_ * size_);
    base_ = scratch_.plane.data();
    if (v3_) {
      scratch_.sums.assign(base_sums_, base_sums_ + size_);
      base_sums_ = scratch_.sums.data();
    }
    for (int64_t folded = stored(); folded < block;) {
      Fold(folded);
      folded += window_.commit;
      if (folded == stored_after) {
        std::memcpy(StoredPlane(), base_, size_ * size_ * sizeof(float));
        SumColumns(scratch_.health.data(), 0, of_.key_dim, health);
        if (v3_) {
          std::memcpy(StoredSums(), base_sums_, size_ * sizeof(float));
        }
      }
    }
    stored() = stored_after;
  }

 private:
  float* At(size_t offset, int64_t index) const {
    return reinterpret_cast<float*>(layer_ + offset) + index * of_.key_dim;
  }

  float* StoredPlane() const { return At(layout_.plane, int64_t{head_} * of_.key_dim); }

  float* StoredSums() const { return At(layout_.sums, head_); }

  int64_t Entry(int64_t p) const { return int64_t{head_} * window_.ring() + p % window_.ring(); }

  // Takes the base through the block: A <- m_C (A - sum r r^T), z <- z + sum f(k). The products of
  // two rows' elements commute, so A stays symmetric to the bit.
  void Fold(int64_t block) {
    const int dim = of_.key_dim;
    const auto rows = static_cast<size_t>(window_.commit * rows_per_token_);
    const float growth = Growth(of_, window_.commit);
    const float root = std::sqrt(growth);
    scratch_.scaled_rows.resize(2 * rows * size_);
    scratch_.keys.clear();
    scratch_.values.clear();
    float* scaled = scratch_.scaled_rows.data();
    for (int64_t p = block; p < block + window_.commit; ++p) {
      for (int row = 0; row < rows_per_token_; ++row, scaled += 2 * size_) {
        Scale(root, Row(p, row), dim, scaled);
        Scale(-root, Row(p, row), dim, scaled + size_);
        scratch_.values.push_back(scaled);
        scratch_.keys.push_back(scaled + size_);
      }
    }
    for (size_t i = 0; v3_ && i < size_; ++i) {
      base_[i * size_ + i] += Nudges(block, block + window_.commit);
    }
    scratch_.decay.assign(size_, growth);
    scratch_.health.resize(3 * size_);
    StatePass pass;
    pass.state = base_;
    pass.key_dim = pass.stride = pass.columns = dim;
    pass.folds = pass.stored = 1;
    pass.entries = static_cast<int>(rows);
    pass.decay = scratch_.decay.data();
    pass.fold_keys = scratch_.keys.data();
    pass.fold_values = scratch_.values.data();
    pass.health = scratch_.health.data();
    PassState(pass);
    for (int64_t p = block; v3_ && p < block + window_.commit; ++p) {
      for (size_t i = 0; i < size_; ++i) {
        base_sums_[i] += MappedKey(p)[i];
      }
    }
  }

  const Preconditioner& of_;
  const bool v3_;
  const size_t size_;  // key_dim
  const Window window_;
  const PreconditionLayout layout_;
  std::byte* const layer_;
  const int head_;
  const int rows_per_token_;
  Scratch& scratch_;
  float* base_ = nullptr;
  float* base_sums_ = nullptr;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_PRECONDITION_PLANE_H_
