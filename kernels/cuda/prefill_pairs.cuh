// What the entries of a chunk weigh in one another: sums over keys of a query, or an erased key,
// times an earlier entry's key, as it has decayed. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_PAIRS_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_PAIRS_CUH_

#include "kernels/cuda/prefill_logs.cuh"
#include "kernels/cuda/prefill_slices.cuh"
#include "kernels/cuda/prefill_triangle.cuh"

namespace evenflow {

inline constexpr int kPairs = kMma * (kMma + 1) / 2;  // (i, j <= i) of 16 tokens
inline constexpr float kLargestDecay = 40;            // e^-40 still leaves 24 bits of a normal bf16

template <bool kChannels, bool kOwnKeys>
struct WeighShared {
  union {
    Slices<kOwnKeys> slices;
    Triangle triangle;  // once keys are done
  };

  SharedLogs<kChannels> logs;
  float read_decay[kChannels ? 1 : kChunk];  // e^{L_i} of all keys, 0 for tokens before the row's
  float fold_decay[kChannels ? 1 : kChunk];  // e^{L_last - L_j}, with the last of j's segment
  float beta[kChunk];
  float diagonal[2][kChunk][kChannels ? kMma + 1 : 1];  // of A, of M: [entry, entry - 16 I]
};

template <int kParts>
__device__ inline float DecayOf(float log) {
  return kParts == kFastParts ? __expf(log) : expf(log);
}

template <int kParts>
__device__ inline float2 DecayOf(float2 logs) {
  return make_float2(DecayOf<kParts>(logs.x), DecayOf<kParts>(logs.y));
}

__device__ inline float2 Product(float2 a, float2 b) {
  return make_float2(a.x * b.x, a.y * b.y);
}

// A warp has the sums of 16 entries i, for as many j as are not after them.
template <class Memory, int kParts>
class PairsOfWarp {
 public:
  using T = Traits<Memory>;
  using Shared = WeighShared<T::kChannels, T::kOwnKeys != 0>;
  using Sums = float[2 * kMmas][4];  // [16 entries i, 64 entries j], as products leave them

  __device__ PairsOfWarp(const LogsOfChunk<Memory>& logs, Shared& shared, int warp)
      : logs_(logs),
        shared_(shared),
        warp_(warp),
        lane_(static_cast<int>(threadIdx.x) % 32),
        g_(lane_ / 4),
        t_(lane_ % 4) {}

  // Before the first slice of keys.
  __device__ void Begin() {
    if constexpr (T::kChannels) {
      __syncwarp();
      for (int i = lane_; i < kMma * (kMma + 1); i += 32) {
        shared_.diagonal[0][kMma * warp_][i] = shared_.diagonal[1][kMma * warp_][i] = 0;
      }
    }
  }

  // Of queries and, where it kErases, of erased keys, over the slice that is there.
  template <bool kErases>
  __device__ void Add(Sums& scores, Sums& erases) {
    const bool own = !T::kChannels || DecaysAreSmall();
    AddProducts<kErases>(own, scores, erases);
    if (!own) {
      AddDiagonal(kErases);
    }
  }

  // Once all slices are added, and a barrier of the block: e^{L_i - L_j} times what was summed; 0
  // for j > i, and unless they are `of_queries` for j = i.
  __device__ void Finish(Sums& sums, bool of_queries) const {
#pragma unroll
    for (int tile = 0; tile < 2 * kMmas; ++tile) {
      if (tile / 2 <= warp_) {  // the others are 0
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int i = kMma * warp_ + g_ + e / 2 * 8;
          const int j = 8 * tile + 2 * t_ + e % 2;
          float& sum = sums[tile][e];
          if (of_queries ? j > i : j >= i) {
            sum = 0;
          } else if constexpr (T::kChannels) {
            sum += j >= kMma * warp_ ? shared_.diagonal[of_queries ? 0 : 1][i][j - kMma * warp_]
                                     : 0.0f;
          } else {
            sum *= DecayOf<kParts>(logs_.Between(i, j, 0));
          }
        }
      }
    }
  }

 private:
  // Whether e^l and e^-l are normal numbers for the decays of the slice's keys among the warp's own
  // entries, so that products may have them as factors.
  __device__ bool DecaysAreSmall() const {
    const float2 all = logs_.PairSinceTile(kMma * warp_ + kMma - 1, 2 * lane_);
    return __all_sync(0xffffffffu, fminf(all.x, all.y) > -kLargestDecay);
  }

  // x[i][k, k + 1] of the warp's entries, as A. Where channels decay, since the one before them.
  __device__ MmaA<kParts> LoadA(const Slice& x, int k) const {
    float d[2][4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const int i = kMma * warp_ + g_ + p % 2 * 8;
      const int key = k + 2 * t_ + p / 2 * 8;
      float2 pair = x.Pair(i, key);
      if constexpr (T::kChannels) {
        pair = Product(pair, DecayOf<kParts>(logs_.PairSinceTile(i, key)));
      }
      d[p / 2][p % 2 * 2] = pair.x;
      d[p / 2][p % 2 * 2 + 1] = pair.y;
    }
    return SplitA<kParts>(d[0], d[1]);
  }

  // Of an entry, as a factor beside LoadA: keys k and k + 1.
  __device__ float2 DecayedKey(int j, int k) const {
    const float2 pair = shared_.slices.keys.Pair(j, k);
    if constexpr (T::kChannels) {
      const float2 own = logs_.PairOfTile(static_cast<unsigned>(warp_), k),
                   of_tile = logs_.PairOfTile(static_cast<unsigned>(j) / kMma, k);
      const float2 since = logs_.PairSinceTile(j, k);
      return Product(pair, DecayOf<kParts>(make_float2((own.x - of_tile.x) - since.x,
                                                       (own.y - of_tile.y) - since.y)));
    } else {
      return pair;
    }
  }

  // scores[j] += q . w_j over 64 keys, for the warp's entries and j of as many tiles of 8 as there
  // are before them and, where they are `own`, of theirs; likewise those of erased keys.
  template <bool kErases>
  __device__ void AddProducts(bool own, float (&scores)[2 * kMmas][4],
                              float (&erases)[2 * kMmas][4]) const {
    const int tiles = 2 * (own ? warp_ + 1 : warp_);
    if (tiles == 0) {
      return;
    }
    for (int k = 0; k < kSlice; k += kMma) {
      const MmaA<kParts> q = LoadA(shared_.slices.queries, k);
      MmaA<kParts> e;
      if constexpr (kErases) {
        e = LoadA(shared_.slices.Erased(), k);
      }
#pragma unroll
      for (int tile = 0; tile < 2 * kMmas; ++tile) {
        if (tile < tiles) {
          const int j = 8 * tile + g_, key = k + 2 * t_;
          const auto w = SplitB<kParts>(DecayedKey(j, key), DecayedKey(j, key + 8));
          MmaOfParts(q, w, scores[tile]);
          if constexpr (kErases) {
            MmaOfParts(e, w, erases[tile]);
          }
        }
      }
    }
  }

  // The same among the warp's own entries where channels decay much, in fp32: a lane a pair. Of
  // queries and, where it `erases`, of erased keys.
  __device__ void AddDiagonal(bool erases) {
    for (int pair = lane_; pair < kPairs; pair += 32) {
      int i = 0;
      while ((i + 1) * (i + 2) / 2 <= pair) {
        ++i;
      }
      const int n = pair - i * (i + 1) / 2;
      const int j = kMma * warp_ + n;
      i += kMma * warp_;
      float score = 0, erase = 0;
#pragma unroll 4
      for (int step = 0; step < kSlice; ++step) {
        const int k = (step + lane_) % kSlice;
        const float decay = DecayOf<kParts>(logs_.Between(i, j, k));
        const float decayed = shared_.slices.keys.x[j][k] * decay;
        score = fmaf(shared_.slices.queries.x[i][k], decayed, score);
        erase = T::kErases ? fmaf(shared_.slices.Erased().x[i][k], decayed, erase) : 0;
      }
      shared_.diagonal[0][i][n] += score;
      if (erases) {
        shared_.diagonal[1][i][n] += erase;
      }
    }
  }

  const LogsOfChunk<Memory> logs_;
  Shared& shared_;
  const int warp_;
  const int lane_;
  const int g_;
  const int t_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_PAIRS_CUH_
