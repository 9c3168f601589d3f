// What the entries of each chunk weigh: see kernels/cuda/prefill.cuh. A block is a chunk and a
// head; keys come in slices of 64, and warp I takes the reads of entries [16 I, 16 I + 16).
#include "kernels/cuda/prefill_logs.cuh"
#include "kernels/cuda/prefill_slices.cuh"
#include "kernels/cuda/prefill_triangle.cuh"

namespace evenflow {
namespace {

constexpr int kPairs = kMma * (kMma + 1) / 2;  // (i, j <= i) of 16 tokens
constexpr float kLargestDecay = 40;            // e^-40 still leaves 24 bits of a normal bf16

template <bool kChannels, bool kOwnKeys>
struct WeighShared {
  union {
    Slices<kOwnKeys> slices;
    Triangle triangle;  // once keys are done
  };

  SharedLogs<kChannels> logs;
  float beta[kChunk];
  float diagonal[2][kChunk][kChannels ? kMma + 1 : 1];  // of A, of M: [entry, entry - 16 I]
};

template <class Memory, int kParts>
class Weigher {
 public:
  using T = Traits<Memory>;
  using Shared = WeighShared<T::kChannels, T::kOwnKeys != 0>;

  __device__ Weigher(const PromptCall& call, const Row& row, int head, const Chunks& chunks,
                     int chunk, std::byte* weights, Shared& shared)
      : call_(call),
        entries_({call.advance, row, head}, call.advance.args.shape.key_dim, chunks, chunk),
        logs_({call.advance, row, head}, head, call.advance.args, chunks, chunk, shared.logs),
        shared_(shared),
        weights_(weights),
        store_(T::kEntries * chunks.store(chunk)),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        g_(lane_ / 4),
        t_(lane_ % 4) {}

  __device__ void Run() {
    if constexpr (T::kErases) {
      entries_.FetchBeta(shared_.beta);
    }
    for (int query = call_.layout.queries - 1; query >= 0; --query) {
      Query(query);
    }
    if constexpr (T::kErases) {
      SolveTriangle();
    }
  }

 private:
  static __device__ float Exp(float x) { return kParts == 1 ? __expf(x) : expf(x); }

  // Queries, keys and logs of a slice.
  __device__ void LoadSlice(int query, int first) {
    __syncthreads();
    entries_.Fetch(query, first, call_.wide, &shared_.slices);
    if (T::kChannels || first == 0) {
      logs_.Fetch(first, call_.wide);
    }
    CommitCopies();
    WaitForCopies<0>();
    __syncthreads();
    if (T::kChannels || first == 0) {
      logs_.SumBlocks();
      __syncthreads();
    }
  }

  __device__ std::byte* Tile(int stage, int slab, int tile) const {
    return weights_ + stage + slab * call_.layout.slab() + tile * call_.layout.tile();
  }

  // A stage: pair(slab, tile, g, t) gives numbers t and t + 1 of row g, within a tile.
  template <class Pair>
  __device__ void StoreStage(int stage, const Pair& pair) const {
    for (int i = warp_; i < kMmas * kMmas; i += kMmas) {
      const int slab = i / kMmas, tile = i % kMmas;
      float2 pairs[4];
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        pairs[p] = pair(slab, tile, g_ + p / 2 * 8, 2 * t_ + p % 2 * 8);
      }
      StoreTile<kParts>(Tile(stage, slab, tile), pairs);
    }
  }

  // Rows of `x`, times e^{L}, for 64 keys. Those of tokens before the row's are zeros.
  __device__ void StoreRows(const Slice& x, int stage) const {
    StoreStage(stage, [&](int slab, int tile, int g, int t) {
      const int n = kMma * tile + g, k = kMma * slab + t;
      const bool reads = entries_.TokenOf(n) >= 0;
      const float low = Exp(logs_.SinceChunk(n, k));
      const float high = T::kChannels ? Exp(logs_.SinceChunk(n, k + 1)) : low;
      return make_float2(reads ? x.x[n][k] * low : 0, reads ? x.x[n][k + 1] * high : 0);
    });
  }

  // Keys as they are folded: w_j e^{L_last - L_j}, with the last entry of j's segment; and D.
  __device__ void StoreFolds(int stage) {
    const auto last_of = [&](int n) { return n < store_ ? store_ - 1 : kChunk - 1; };
    StoreStage(stage, [&](int slab, int tile, int g, int t) {
      const int k = kMma * slab + g, n = kMma * tile + t;
      const int last = last_of(n);
      return make_float2(shared_.slices.keys.x[n][k] * Exp(logs_.Between(last, n, k)),
                         shared_.slices.keys.x[n + 1][k] * Exp(logs_.Between(last, n + 1, k)));
    });
    auto* decay = reinterpret_cast<float*>(weights_ + stage + call_.layout.stage());
    const int k = static_cast<int>(threadIdx.x) % kSlice;
    if (static_cast<int>(threadIdx.x) < kSlice) {
      decay[k] = store_ > 0 ? Exp(logs_.SinceChunk(store_ - 1, k)) : 1.0f;
    } else {
      decay[kSlice + k] = Exp(store_ > 0 ? logs_.Between(kChunk - 1, store_ - 1, k)
                                         : logs_.SinceChunk(kChunk - 1, k));
    }
  }

  // l_i less that of the entry before the warp's first.
  __device__ float SinceTile(int i, int k) const {
    return warp_ == 0 ? logs_.SinceChunk(i, k) : logs_.Between(i, kMma * warp_ - 1, k);
  }

  // Whether e^l and e^-l are normal numbers for the decays of the slice's keys among the warp's own
  // entries, so that products may have them as factors.
  __device__ bool DecaysAreSmall() const {
    const int last = kMma * warp_ + kMma - 1;
    const float least = fminf(SinceTile(last, lane_), SinceTile(last, lane_ + 32));
    return __all_sync(0xffffffffu, least > -kLargestDecay);
  }

  // x[i][k, k + 1] of the warp's entries, as A. Where channels decay, since the one before them.
  __device__ MmaA<kParts> LoadA(const Slice& x, int k) const {
    float d[2][4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const int i = kMma * warp_ + g_ + p % 2 * 8;
      const int key = k + 2 * t_ + p / 2 * 8;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float decay = T::kChannels ? Exp(SinceTile(i, key + e)) : 1.0f;
        d[p / 2][p % 2 * 2 + e] = x.x[i][key + e] * decay;
      }
    }
    return SplitA<kParts>(d[0], d[1]);
  }

  // sums[j] += x . w_j over 64 keys, for the warp's entries and j of as many tiles of 8 as there
  // are before them and, where they are `own`, of theirs.
  __device__ void AddProducts(const Slice& x, bool own, float (&sums)[2 * kMmas][4]) const {
    const int tiles = 2 * (own ? warp_ + 1 : warp_);
    if (tiles == 0) {
      return;
    }
    for (int k = 0; k < kSlice; k += kMma) {
      const MmaA<kParts> a = LoadA(x, k);
#pragma unroll
      for (int tile = 0; tile < 2 * kMmas; ++tile) {
        if (tile < tiles) {
          uint32_t b[2][kParts];
#pragma unroll
          for (int p = 0; p < 2; ++p) {
            const int j = 8 * tile + g_;
            const int key = k + 2 * t_ + p * 8;
            float w[2] = {shared_.slices.keys.x[j][key], shared_.slices.keys.x[j][key + 1]};
            if constexpr (T::kChannels) {
              w[0] *= Exp(-SinceTile(j, key));
              w[1] *= Exp(-SinceTile(j, key + 1));
            }
            SplitPair<kParts>(w[0], w[1], b[p]);
          }
#pragma unroll
          for (int p = kParts - 1; p >= 0; --p) {
#pragma unroll
            for (int q = kParts - 1 - p; q >= 0; --q) {
              Mma(a.part[q], b[0][p], b[1][p], sums[tile]);
            }
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
        const float decay = Exp(logs_.SinceBlock(i, k) - logs_.SinceBlock(j, k));
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

  // e^{L_i - L_j} times what was summed; 0 for j > i, and for j = i where it is `strict`.
  __device__ void Finish(float (&sums)[2 * kMmas][4], int of, bool strict) const {
#pragma unroll
    for (int tile = 0; tile < 2 * kMmas; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = kMma * warp_ + g_ + e / 2 * 8;
        const int j = 8 * tile + 2 * t_ + e % 2;
        float& sum = sums[tile][e];
        if (strict ? j >= i : j > i) {
          sum = 0;
        } else if constexpr (T::kChannels) {
          sum += j >= kMma * warp_ ? shared_.diagonal[of][i][j - kMma * warp_] : 0.0f;
        } else {
          sum *= Exp(logs_.Between(i, j, 0));
        }
      }
    }
  }

  // A and Q' of a query; with the first of them, which comes last, all that the keys weigh.
  __device__ void Query(int query) {
    const bool first = query == 0;
    const WeightLayout& layout = call_.layout;
    const int stage = layout.read(query + (T::kErases ? 1 : 0));
    float scores[2 * kMmas][4] = {}, erases[2 * kMmas][4] = {};
    if constexpr (T::kChannels) {
      __syncwarp();
      for (int i = lane_; i < kMma * (kMma + 1); i += 32) {  // of the warp's entries
        shared_.diagonal[0][kMma * warp_][i] = shared_.diagonal[1][kMma * warp_][i] = 0;
      }
    }
    for (int slice = 0; slice < layout.slices; ++slice) {
      LoadSlice(query, slice * kSlice);
      StoreRows(shared_.slices.queries, stage + slice * layout.stage());
      const bool own = !T::kChannels || DecaysAreSmall();
      AddProducts(shared_.slices.queries, own, scores);
      if (!own) {
        AddDiagonal(T::kErases && first);
      }
      if (first) {
        StoreFolds(layout.folds() + slice * layout.fold_stage());
        if constexpr (T::kErases) {
          StoreRows(shared_.slices.Erased(), slice * layout.stage());
          AddProducts(shared_.slices.Erased(), own, erases);
        }
      }
    }
    __syncthreads();
    Finish(scores, 0, false);
    StoreSquare(scores, stage + layout.slices * layout.stage());
    if constexpr (T::kErases) {
      if (first) {
        Finish(erases, 1, true);
        StoreErases(erases);
      }
    }
  }

  // The warp's rows of A, as far as entries are read.
  __device__ void StoreSquare(const float (&sums)[2 * kMmas][4], int stage) const {
#pragma unroll
    for (int j = 0; j < kMmas; ++j) {
      if (j <= warp_) {
        const float(&left)[4] = sums[2 * j];
        const float(&right)[4] = sums[2 * j + 1];
        const float2 pairs[4] = {make_float2(left[0], left[1]), make_float2(right[0], right[1]),
                                 make_float2(left[2], left[3]), make_float2(right[2], right[3])};
        StoreTile<kParts>(Tile(stage, j, warp_), pairs);
      }
    }
  }

  // M, once all are done with keys and queries.
  __device__ void StoreErases(const float (&sums)[2 * kMmas][4]) {
#pragma unroll
    for (int tile = 0; tile < 2 * kMmas; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = kMma * warp_ + g_ + e / 2 * 8;
        shared_.triangle.m[i][8 * tile + 2 * t_ + e % 2] =
            entries_.TokenOf(i) < 0 ? 0 : shared_.beta[i] * sums[tile][e];
      }
    }
  }

  // T, from M.
  __device__ void SolveTriangle() {
    Triangle& triangle = shared_.triangle;
    __syncthreads();
    triangle.Solve(shared_.beta);
    __syncthreads();
    for (int j = 0; j <= warp_; ++j) {
      float2 pairs[4];
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        pairs[p] = triangle.Pair(kMma * warp_ + g_ + p / 2 * 8, kMma * j + 2 * t_ + p % 2 * 8);
      }
      StoreTile<kParts>(Tile(call_.layout.slices * call_.layout.stage(), j, warp_), pairs);
    }
  }

  const PromptCall& call_;
  const EntriesOfChunk<Memory> entries_;
  const LogsOfChunk<Memory> logs_;
  Shared& shared_;
  std::byte* const weights_;
  const int store_;  // of these in the state that is stored, or 0
  const int warp_;
  const int lane_;
  const int g_;
  const int t_;
};

// Of a multiprocessor: as many as its shared memory holds, or registers without spills.
template <class Memory>
inline constexpr int kWeighBlocks = (Traits<Memory>::kChannels ? 3 : 4) -
                                    (Traits<Memory>::kOwnKeys != 0 ? 1 : 0);

template <class Memory, int kParts>
__global__ void __launch_bounds__(kWeighThreads, kWeighBlocks<Memory>)
    Weigh(const __grid_constant__ PromptCall call) {
  extern __shared__ float4 shared[];
  AwaitInputs();
  const int item = static_cast<int>(blockIdx.x);
  int r = 0;
  while (call.rows.first_item[r + 1] <= item) {
    ++r;
  }
  const Row row = call.advance.rows[call.rows.row[r]];
  const Chunks chunks(call, row);
  const int chunk = item - call.rows.first_item[r];
  if (chunk >= chunks.count()) {
    return;
  }
  const int head = static_cast<int>(blockIdx.y);
  using Shared = typename Weigher<Memory, kParts>::Shared;
  Weigher<Memory, kParts> weigher(call, row, head, chunks, chunk, call.Weights(item, head),
                                  *reinterpret_cast<Shared*>(shared));
  weigher.Run();
}

template <class Memory, int kParts>
void Run(const PromptCall& call, int items, cudaStream_t stream) {
  const auto kernel = Weigh<Memory, kParts>;
  const size_t bytes = sizeof(typename Weigher<Memory, kParts>::Shared);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(bytes));
  const dim3 blocks(static_cast<unsigned>(items),
                    static_cast<unsigned>(call.advance.args.shape.heads));
  Launch(kernel, {blocks, kWeighThreads, bytes}, stream, call);
}

}  // namespace

void WeighPrompts(const PromptCall& call, int items, cudaStream_t stream) {
  VisitInChunks(call.advance.args.memory, [&]<class Memory>() {
    if constexpr (!kAlwaysExact<Memory>) {
      if (call.layout.parts == kFastParts) {
        return Run<Memory, kFastParts>(call, items, stream);
      }
    }
    Run<Memory, kExactParts>(call, items, stream);
  });
}

}  // namespace evenflow
