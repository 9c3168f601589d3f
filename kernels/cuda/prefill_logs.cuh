// Cumulative log decays of a chunk's entries, for keys that are weighed together. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_LOGS_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_LOGS_CUH_

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/head_view.cuh"
#include "kernels/cuda/prefill.cuh"

namespace evenflow {

inline constexpr int kWeighThreads = 32 * kMmas;
inline constexpr int kStride = kSlice + 8;  // of a token: pairs of 4 tokens lie in separate banks

// Of each of 64 keys, or what all share.
template <bool kChannels>
struct SharedLogs {
  static constexpr int kDims = kChannels ? kStride : 1;
  float log[kChunk][kDims];  // since the block's start
  float base[kMmas][kDims];  // of the block since the chunk's start, [block]
};

// i and j count entries from the chunk's first, k keys from the first of the slice.
template <class Memory>
class LogsOfChunk {
 public:
  using T = Traits<Memory>;

  __device__ LogsOfChunk(const HeadView<Memory>& view, int head, const AdvanceArgs& args,
                         const Chunks& chunks, int chunk, SharedLogs<T::kChannels>& shared)
      : view_(view),
        shared_(shared),
        dim_(args.shape.key_dim),
        block_shift_(4 + T::kEntries * args.window.commit / 32),  // of 16, 32 or 64
        begin_(chunks.begin(chunk)),
        count_(T::kEntries * (chunks.end(chunk) - begin_)),
        rate_(Memory::kDecay == Decay::kConstant ? args.log_decay[head] : 0) {}

  // l_i - l_j, in the order that loses least.
  __device__ float Between(int i, int j, int k) const {
    const int key = Key(k);
    return (shared_.base[Block(i)][key] - shared_.base[Block(j)][key]) +
           (shared_.log[i][key] - shared_.log[j][key]);
  }

  __device__ float SinceChunk(int i, int k) const {
    return shared_.base[Block(i)][Key(k)] + shared_.log[i][Key(k)];
  }

  __device__ float SinceBlock(int i, int k) const { return shared_.log[i][Key(k)]; }

  __device__ int Block(int i) const { return i >> block_shift_; }

  // The last token of i's block.
  __device__ int LastOfBlock(int i) const { return ((Block(i) + 1) << block_shift_) - 1; }

  // Begins to copy those of keys from `first` on. All threads of the block, as below.
  __device__ void Fetch(int first, bool wide) const {
    if constexpr (T::kChannels) {
      for (int p = static_cast<int>(threadIdx.x); p < kChunk * kSlice / 4; p += kWeighThreads) {
        const int i = p / (kSlice / 4), k = p % (kSlice / 4) * 4;
        const int last = Least(i, count_ - 1);
        const int count = Block(last) == Block(i) ? dim_ - first - k : 0;
        CopyFour(&shared_.log[i][k],
                 view_.Log(begin_ + last / T::kEntries) + (count > 0 ? first + k : 0), count, wide);
      }
    } else {
      for (int i = static_cast<int>(threadIdx.x); i < kChunk; i += kWeighThreads) {
        shared_.log[i][0] = Shared(i);
      }
    }
  }

  // Once they are there, and before they are used: sums up blocks.
  __device__ void SumBlocks() const {
    const int k = static_cast<int>(threadIdx.x);
    if (k < (T::kChannels ? kSlice : 1)) {
      float base = 0;
      for (int block = 0; block <= Block(kChunk - 1); ++block) {
        shared_.base[block][k] = base;
        base += shared_.log[LastOfBlock(block << block_shift_)][k];
      }
    }
  }

 private:
  static __device__ int Key(int k) { return T::kChannels ? k : 0; }

  // An entry's log that all keys share; behind the last one nothing decays.
  __device__ float Shared(int i) const {
    const int last = Least(i, count_ - 1);
    if (Block(last) != Block(i)) {
      return 0;
    }
    if constexpr (T::kLogs) {
      return view_.Log(begin_ + last / T::kEntries)[0];
    }
    return static_cast<float>((last - (Block(last) << block_shift_)) / T::kEntries + 1) * rate_;
  }

  const HeadView<Memory> view_;
  SharedLogs<T::kChannels>& shared_;
  const int dim_;
  const int block_shift_;  // blocks of 2^block_shift entries
  const int begin_;        // of the chunk, in distances from the row's first token
  const int count_;        // entries
  const float rate_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_LOGS_CUH_
