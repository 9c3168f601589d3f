// What the entries of each chunk weigh: see kernels/cuda/prefill.cuh. A block is a chunk and a
// head; keys come in slices of 64, and warp I takes the reads of entries [16 I, 16 I + 16).
#include "kernels/cuda/prefill_pairs.cuh"

namespace evenflow {
namespace {

template <class Memory, int kParts>
class Weigher {
 public:
  using T = Traits<Memory>;
  using Pairs = PairsOfWarp<Memory, kParts>;
  using Shared = typename Pairs::Shared;

  __device__ Weigher(const PromptCall& call, const Row& row, int head, const Chunks& chunks,
                     int chunk, std::byte* weights, Shared& shared)
      : call_(call),
        entries_({call.advance, row, head}, call.advance.args.shape.key_dim, chunks, chunk),
        logs_({call.advance, row, head}, head, call.advance.args, chunks, chunk, shared.logs),
        shared_(shared),
        weights_(weights),
        store_(T::kEntries * chunks.store(chunk)),
        // Later entries take longer: those of different blocks are with different schedulers.
        warp_((static_cast<int>(threadIdx.x / 32 + blockIdx.x + blockIdx.y)) % kMmas),
        pairs_(logs_, shared, warp_),
        g_(static_cast<int>(threadIdx.x) % 32 / 4),
        t_(static_cast<int>(threadIdx.x) % 4) {}

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
  template <class Logs>
  static __device__ Logs Exp(Logs logs) {
    return DecayOf<kParts>(logs);
  }

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
      logs_.Sum(first);
      __syncthreads();
    }
    if (!T::kChannels && first == 0) {
      const int n = static_cast<int>(threadIdx.x) % kChunk;
      if (static_cast<int>(threadIdx.x) < kChunk) {
        shared_.read_decay[n] = entries_.TokenOf(n) >= 0 ? Exp(logs_.SinceChunk(n, 0)) : 0;
      } else {
        shared_.fold_decay[n] = Exp(logs_.Between(LastOfSegment(n), n, 0));
      }
      __syncthreads();
    }
  }

  __device__ int LastOfSegment(int n) const { return n < store_ ? store_ - 1 : kChunk - 1; }

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

  // e^{L_n} of keys k and k + 1; 0 for tokens before the row's.
  __device__ float2 ReadDecay(int n, int k) const {
    if constexpr (T::kChannels) {
      return entries_.TokenOf(n) < 0 ? make_float2(0, 0) : Exp(logs_.PairSinceChunk(n, k));
    } else {
      return make_float2(shared_.read_decay[n], shared_.read_decay[n]);
    }
  }

  // e^{L_last - L_n}, with the last entry of n's segment.
  __device__ float FoldDecay(int n, int k) const {
    return T::kChannels ? Exp(logs_.Between(LastOfSegment(n), n, k)) : shared_.fold_decay[n];
  }

  // Rows of `x`, times e^{L}, for 64 keys.
  __device__ void StoreRows(const Slice& x, int stage) const {
    StoreStage(stage, [&](int slab, int tile, int g, int t) {
      const int n = kMma * tile + g, k = kMma * slab + t;
      return Product(x.Pair(n, k), ReadDecay(n, k));
    });
  }

  // Keys as they are folded: w_j e^{L_last - L_j}; and D.
  __device__ void StoreFolds(int stage) {
    StoreStage(stage, [&](int slab, int tile, int g, int t) {
      const int k = kMma * tile + g, n = kMma * slab + t;
      return make_float2(shared_.slices.keys.x[n][k] * FoldDecay(n, k),
                         shared_.slices.keys.x[n + 1][k] * FoldDecay(n + 1, k));
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

  // A and Q' of a query; with the first of them, which comes last, all that the keys weigh.
  __device__ void Query(int query) {
    const bool first = query == 0;
    const WeightLayout& layout = call_.layout;
    const int stage = layout.read(query + (T::kErases ? 1 : 0));
    typename Pairs::Sums scores = {}, erases = {};
    pairs_.Begin();
    for (int slice = 0; slice < layout.slices; ++slice) {
      LoadSlice(query, slice * kSlice);
      StoreRows(shared_.slices.queries, stage + slice * layout.stage());
      if (first) {
        pairs_.template Add<T::kErases>(scores, erases);
        StoreFolds(layout.folds() + slice * layout.fold_stage());
        if constexpr (T::kErases) {
          StoreRows(shared_.slices.Erased(), slice * layout.stage());
        }
      } else {
        pairs_.template Add<false>(scores, erases);
      }
    }
    __syncthreads();
    pairs_.Finish(scores, true);
    StoreSquare(scores, stage + layout.slices * layout.stage());
    if constexpr (T::kErases) {
      if (first) {
        pairs_.Finish(erases, false);
        StoreErases(erases);
      }
    }
  }

  // The warp's rows of A.
  __device__ void StoreSquare(const typename Pairs::Sums& sums, int stage) const {
#pragma unroll
    for (int j = 0; j < kMmas; ++j) {
      const float(&left)[4] = sums[2 * j];
      const float(&right)[4] = sums[2 * j + 1];
      const float2 pairs[4] = {make_float2(left[0], left[1]), make_float2(right[0], right[1]),
                               make_float2(left[2], left[3]), make_float2(right[2], right[3])};
      StoreTile<kParts>(Tile(stage, j, warp_), pairs);
    }
  }

  // M, once all are done with keys and queries.
  __device__ void StoreErases(const typename Pairs::Sums& sums) {
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
    triangle.Invert<kParts == kFastParts ? 2 : kExactParts>(warp_);
    __syncthreads();
    for (int j = 0; j < kMmas; ++j) {
      float2 pairs[4] = {};
#pragma unroll
      for (int p = 0; j <= warp_ && p < 4; ++p) {
        pairs[p] = triangle.Pair(kMma * warp_ + g_ + p / 2 * 8, kMma * j + 2 * t_ + p % 2 * 8,
                                 shared_.beta);
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
  Pairs pairs_;
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
