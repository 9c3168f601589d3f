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
struct alignas(16) SharedLogs {
  static constexpr int kDims = kChannels ? kStride : 1;
  float log[kChunk][kDims];  // since the tile's start; tiles are of 16 entries
  float base[kMmas][kDims];  // of the tile's start since the chunk's, [tile]
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
        kept_(chunks.tokens - args.window.ring()),
        rate_(Memory::kDecay == Decay::kConstant ? args.log_decay[head] : 0) {}

  // l_i - l_j, in the order that loses least.
  __device__ float Between(int i, int j, int k) const {
    const int key = Key(k);
    return (shared_.base[TileOf(i)][key] - shared_.base[TileOf(j)][key]) +
           (shared_.log[i][key] - shared_.log[j][key]);
  }

  __device__ float SinceChunk(int i, int k) const {
    return shared_.base[TileOf(i)][Key(k)] + shared_.log[i][Key(k)];
  }

  // Of keys k and k + 1, here and below; k is even.
  __device__ float2 PairSinceChunk(int i, int k) const {
    const float2 tile = PairOfTile(TileOf(i), k), own = PairSinceTile(i, k);
    return make_float2(tile.x + own.x, tile.y + own.y);
  }

  __device__ float2 PairSinceTile(int i, int k) const { return Pair(&shared_.log[i][k]); }

  __device__ float2 PairOfTile(unsigned tile, int k) const { return Pair(&shared_.base[tile][k]); }

  // Begins to bring those of keys from `first` on: where channels decay, a token's own, of earlier
  // steps since their block's start. All threads of the block, as below.
  __device__ void Fetch(int first, bool wide) const {
    const int thread = static_cast<int>(threadIdx.x);
    if constexpr (T::kChannels) {
      for (int p = thread; p < kChunk * kSlice / 4; p += kWeighThreads) {
        const int i = p / (kSlice / 4), k = p % (kSlice / 4) * 4;
        const int count = i < count_ ? dim_ - first - k : 0;
        CopyFour(&shared_.log[i][k], Given(count > 0 ? i : 0) + (count > 0 ? first + k : 0), count,
                 wide);
      }
    } else if (thread < kChunk) {
      const int start = thread / kMma * kMma;
      shared_.log[thread][0] =
          SinceBlock(thread) - (BeginsBlock(start) ? 0 : SinceBlock(start - 1));
    }
  }

  // Once they are there, and before they are used: sums up those of keys from `first` on. Where
  // channels decay, leaves what the row's rings will keep in AdvanceCall::logs.
  __device__ void Sum(int first) const {
    const int k = static_cast<int>(threadIdx.x);
    if (k >= (T::kChannels ? kSlice : 1)) {
      return;
    }
    float log = 0, base = 0;  // since the start of the block of positions, of the chunk
#pragma unroll 1
    for (int tile = 0; tile < kMmas; ++tile) {
      shared_.base[tile][k] = base;
      if constexpr (T::kChannels) {
        log = BeginsBlock(kMma * tile) ? 0 : log;
        const float before = log;
#pragma unroll
        for (int i = kMma * tile; i < kMma * tile + kMma; ++i) {
          log = Add(i, log, first, k);
          shared_.log[i][k] = log - before;
        }
      }
      base += shared_.log[kMma * tile + kMma - 1][k];
    }
  }

 private:
  static __device__ unsigned TileOf(int i) {
    return static_cast<unsigned>(i) / kMma;
  }

  static __device__ int Key(int k) {
    return T::kChannels ? k : 0;
  }

  __device__ int TokenOf(int i) const {
    return begin_ + i / T::kEntries;
  }

  __device__ const float* Given(int i) const {
    return TokenOf(i) < 0 ? view_.Log(TokenOf(i)) : view_.LogDecay(TokenOf(i));
  }

  // Blocks of positions have 2^block_shift_ entries.
  __device__ bool BeginsBlock(int i) const {
    return (i & ((1 << block_shift_) - 1)) == 0;
  }

  // What all keys share, since the block's start. Nothing decays behind the last entry.
  __device__ float SinceBlock(int i) const {
    const int last = Least(i, count_ - 1);
    if (i >> block_shift_ != last >> block_shift_) {
      return 0;
    }
    if constexpr (T::kLogs) {
      return *view_.Log(TokenOf(last));
    }
    const int begin = last >> block_shift_ << block_shift_;
    return static_cast<float>((last - begin) / T::kEntries + 1) * rate_;
  }

  // Of entry i since its block's start, `before` being that of the entry before.
  __device__ float Add(int i, float before, int first, int k) const {
    if (i >= count_ || i % T::kEntries != 0) {
      return before;
    }
    const int t = TokenOf(i);
    const float given = shared_.log[i][k];
    const float log = t < 0 ? given : before + ClampLog(given);
    if (t >= kept_ && t >= 0 && first + k < dim_) {
      view_.StepLog(t)[first + k] = log;
    }
    return log;
  }

  static __device__ float2 Pair(const float* x) {
    return *reinterpret_cast<const float2*>(x);
  }

  const HeadView<Memory> view_;
  SharedLogs<T::kChannels>& shared_;
  const int dim_;
  const int block_shift_;
  const int begin_;  // of the chunk, in distances from the row's first token
  const int count_;  // entries
  const int kept_;   // tokens from here on go into the rings
  const float rate_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_LOGS_CUH_
