// One head of one row as the kernels that advance memories see it. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_HEAD_VIEW_CUH_
#define EVENFLOW_KERNELS_CUDA_HEAD_VIEW_CUH_

#include "kernels/cuda/advance.cuh"

namespace evenflow {

// Tokens of earlier steps, t < 0, are in the rings. Logs of this step's are in AdvanceCall::logs.
template <class Memory>
class HeadView {
 public:
  using Place = int;  // tokens are named by their distance from the row's first

  __device__ HeadView(const AdvanceCall& call, const Row& row, int head)
      : call_(call),
        shape_(call.args.shape),
        layer_(call.Layer(row)),
        first_token_(row.first_token),
        position_(row.position),
        head_(head),
        ring_(call.args.window.ring()),
        first_entry_(static_cast<int>(row.position % ring_)) {}

  __device__ int Entry(int t) const {
    const int entry = first_entry_ + t;
    if (t < 0) {  // no division for what is in the ring
      return entry < 0 ? entry + ring_ : entry;
    }
    return entry % ring_;
  }

  __device__ int64_t Position(int t) const { return position_ + t; }

  // Of banked memories: beta of any token.
  __device__ float Strength(int t) const {
    return t < 0 ? *RingBeta(t) : call_.args.beta[(first_token_ + t) * shape_.heads + head_];
  }

  __device__ float* RingBeta(int t) const { return Ring(call_.layout.beta, t, 1); }

  // Of log-linear attention: with which a token of this step reads the levels, [banks].
  __device__ const float* LevelWeights(int t) const {
    return call_.args.level_weights + ((first_token_ + t) * shape_.heads + head_) * shape_.banks;
  }

  // w of each entry, [entries, key_dim].
  __device__ int keys_dim() const { return kEntryCount<Memory> * shape_.key_dim; }

  // A token's place in the rings of keys and of log decays, [1] or [key_dim].
  __device__ float* RingKeys(int t) const { return Ring(call_.layout.keys, t, keys_dim()); }

  __device__ float* RingLog(int t) const {
    return Ring(call_.layout.log_decay, t, LogDim<Memory>(shape_));
  }

  __device__ const float* Keys(int t) const {
    if (t < 0) {
      return RingKeys(t);
    }
    const int key_head = head_ / (shape_.heads / shape_.key_heads);
    return call_.args.k + ((first_token_ + t) * shape_.key_heads + key_head) * keys_dim();
  }

  __device__ const float* Key(int t, int entry) const { return Keys(t) + entry * shape_.key_dim; }

  // e of an entry that erases, for a token of this step.
  __device__ const float* ErasedKey(int t, int entry) const {
    using T = Traits<Memory>;
    if ((T::kErasesOwn >> entry & 1) == 0) {
      return Key(t, entry);
    }
    const int64_t own = ((first_token_ + t) * shape_.heads + head_) * T::kOwnKeys +
                        __popc(T::kErasesOwn & ((1u << entry) - 1));
    return call_.args.e + own * shape_.key_dim;
  }

  __device__ const float* Log(int t) const { return t < 0 ? RingLog(t) : StepLog(t); }

  __device__ float* StepLog(int t) const {
    return call_.logs + ((first_token_ + t) * shape_.heads + head_) * LogDim<Memory>(shape_);
  }

  // A token's own log decay, [1] or [key_dim].
  __device__ const float* LogDecay(int t) const {
    return call_.args.log_decay +
           ((first_token_ + t) * shape_.heads + head_) * LogDim<Memory>(shape_);
  }

  __device__ int queries() const {
    return shape_.query_heads > shape_.heads ? shape_.query_heads / shape_.heads : 1;
  }

  __device__ const float* Query(int t, int query) const {
    const int query_head = shape_.query_heads > shape_.heads
                               ? head_ * queries() + query
                               : head_ / (shape_.heads / shape_.query_heads);
    return call_.args.q + ((first_token_ + t) * shape_.query_heads + query_head) * shape_.key_dim;
  }

  __device__ const float* InputValue(int t) const {
    const int value_head = head_ / (shape_.heads / shape_.value_heads);
    return call_.args.v + ((first_token_ + t) * shape_.value_heads + value_head) * shape_.value_dim;
  }

  // Of a token of this step. A whole warp calls it.
  __device__ float Beta(int t) const {
    if constexpr (!Memory::kHasBeta) {
      return 1;
    }
    const float beta = call_.args.beta[(first_token_ + t) * shape_.heads + head_];
    if constexpr (ScalesByKey<Memory>) {
      const float* key = Keys(t);
      float square = 0;
      for (int r = static_cast<int>(threadIdx.x) % 32; r < shape_.key_dim; r += 32) {
        square = fmaf(key[r], key[r], square);
      }
      return Memory::Strength(beta, WarpSum(square));
    }
    return beta;
  }

  __device__ float* Output(int t, int query) const {
    const int64_t out =
        (first_token_ + t) * shape_.output_heads() + int64_t{head_} * queries() + query;
    return call_.args.o + out * shape_.value_dim;
  }

  // The state, in elements of its type.
  template <class State>
  __device__ State* StateData() const {
    return reinterpret_cast<State*>(layer_ + call_.layout.committed) +
           int64_t{head_} * shape_.key_dim * shape_.value_dim;
  }

  // u of an entry, from `column` on to the end of its tile.
  __device__ float* Value(int t, int entry, int column) const {
    return ValueOf(kEntryCount<Memory>, t, entry, column);
  }

  // Of a memory with so many entries a token.
  __device__ float* ValueOf(int entries, int t, int entry, int column) const {
    auto* values = reinterpret_cast<float*>(layer_ + call_.layout.values) +
                   int64_t{head_} * ring_ * entries * shape_.value_dim;
    return values +
           ValueIndex(ring_ * entries, shape_.value_dim, Entry(t) * entries + entry, column);
  }

  // e^{l_i - l_j}, for decays that all channels share; `lag` is i - j.
  __device__ float Decay(int lag, float log_i, float log_j) const {
    if constexpr (Memory::kDecay == Decay::kConstant) {
      return expf(static_cast<float>(lag) * call_.args.log_decay[head_]);
    } else if constexpr (Memory::kDecay == Decay::kScalar) {
      return expf(log_i - log_j);
    } else {
      return 1;
    }
  }

  // Of banked memories.
  __device__ float DecayBetween(int i, int j) const {
    return kLogs ? Decay(i - j, *Log(i), *Log(j)) : 1;
  }

  __device__ float DecaySinceBlock(int i) const { return kLogs ? Decay(0, *Log(i), 0) : 1; }

 private:
  static constexpr bool kLogs = Traits<Memory>::kLogs;

  __device__ float* Ring(size_t offset, int t, int dim) const {
    return reinterpret_cast<float*>(layer_ + offset) + (int64_t{head_} * ring_ + Entry(t)) * dim;
  }

  const AdvanceCall& call_;
  const MemoryShape& shape_;
  std::byte* const layer_;
  const int64_t first_token_;
  const int64_t position_;
  const int head_;
  const int ring_;
  const int first_entry_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_HEAD_VIEW_CUH_
