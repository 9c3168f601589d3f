// Takes rows from chunk to chunk: see kernels/cuda/prefill.cuh. A block has a row's head and some
// of its columns. Four warps have 16 columns of the state, each a quarter of the keys: S^T [16,
// keys] stays in registers, where it lies as an operand of the products that read it. What they
// read for a chunk's entries is summed up for the warp that has that quarter of them.
// Weights and values stream through shared memory.
#include "kernels/cuda/head_view.cuh"
#include "kernels/cuda/prefill.cuh"
#include "kernels/cuda/prefill_pass_stream.cuh"
#include "kernels/cuda/prefill_splits.cuh"

namespace evenflow {
namespace {

template <int kKeys, bool kErases, int kParts>
class Passer {
 public:
  using Stream = PassStream<kKeys, kParts>;

  __device__ Passer(const PromptCall& call, int prompt, int head, int buffers, std::byte* shared)
      : call_(call),
        args_(call.advance.args),
        row_index_(static_cast<unsigned>(call.rows.row[prompt])),
        row_(call.advance.rows[row_index_]),
        chunks_(call, row_),
        head_index_(head),
        head_(call.advance, row_, head),
        stream_(call, call.rows.first_item[prompt], head, head_, chunks_, buffers, shared),
        splits_(stream_.exchange()),
        split_(splits_.split()),
        g_(splits_.lane() / 4),
        t_(splits_.lane() % 4),
        column_(stream_.column() + kPassColumns * splits_.group() + g_),
        out_(head_.Output(0, 0) + column_) {}

  __device__ void Run() {
    stream_.Begin();
    LoadState();
    for (int chunk = 0; chunk < chunks_.count(); ++chunk) {
      Chunk(chunk);
    }
  }

 private:
  // Of 16 keys: the warp's in a step, one after the other.
  static constexpr int kSlabs = kMmas * Stream::kSlices / kSplits;
  static constexpr int kTiles = 2 * kSlabs * Stream::kSteps;  // of 8 keys
  using Splits = WarpSplits<kParts>;

  // Visits this lane's elements of the state: (element, index in the head's state, column's half).
  template <class Visit>
  __device__ void ForState(const Visit& visit) {
    const int key_dim = args_.shape.key_dim, value_dim = args_.shape.value_dim;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = column_ + 8 * half;
      int first = split_ * kSlabs * kMma + 2 * t_;
      asm volatile("" : "+r"(first));  // or addresses are computed for chunks that need none
      const int width = QuadWidth(value_dim, column / kQuad * kQuad);
      const auto begin = static_cast<int>(StateIndex(key_dim, value_dim, first, column));
      const int keys = column < value_dim ? key_dim - first : 0;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int key =
              tile / (2 * kSlabs) * Stream::kSlices * kSlice + tile % (2 * kSlabs) * 8 + e;
          if (key < keys) {
            visit(state_[tile][2 * half + e], begin + key * width, half);
          }
        }
      }
    }
  }

  __device__ void LoadState() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      Clear(state_[tile]);
    }
    if (args_.state_dtype == DType::kF32) {
      ForState([&](float& s, int i, int /*half*/) { s = head_.template StateData<float>()[i]; });
    } else {
      ForState([&](float& s, int i, int /*half*/) {
        s = ToFloat(head_.template StateData<__nv_bfloat16>()[i]);
      });
    }
  }

  __device__ void StoreState() {
    const bool wide = args_.state_dtype == DType::kF32;
    HealthPart parts[2];  // of column_'s quad, of column_ + 8's
    ForState([&](float& s, int i, int half) {
      if (wide) {
        head_.template StateData<float>()[i] = s;
      } else {
        head_.template StateData<__nv_bfloat16>()[i] = FromFloat<__nv_bfloat16>(s);
      }
      parts[half].Observe(s);
    });
    splits_.Sum(parts);
    HealthPart* const of_head =
        call_.advance.Parts(row_index_) + head_index_ * Quads(args_.shape.value_dim);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      parts[half].SumLanes(16);
      const int column = column_ + 8 * half;
      if (split_ == 0 && splits_.lane() % 16 == 0 && column < args_.shape.value_dim) {
        of_head[column / kQuad] = parts[half];
      }
    }
  }

  __device__ static void Clear(float (&x)[4]) {
    x[0] = x[1] = x[2] = x[3] = 0;
  }

  // x = the values of the warp's entries - x.
  __device__ void SubtractFromValues(int chunk, OwnTokens& x) const {
    const int stride = stream_.value_stride();
    const float* const values =
        stream_.Values(chunk) + (kMma * split_ + 2 * t_) * stride + column_ - stream_.column();
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        x[tile][e] = values[(8 * tile + e % 2) * stride + e / 2 * 8] - x[tile][e];
      }
    }
  }

  __device__ int entries() const {
    return 1 << call_.layout.entry_shift;
  }  // of a token

  // Calls visit(token, entry, half of the column's, element) for what the lane has of the warp's
  // entries, of tokens from `first` on.
  template <class Visit>
  __device__ void ForEntries(int chunk, int first, OwnTokens& own, const Visit& visit) const {
    const int begin = chunks_.begin(chunk), end = chunks_.end(chunk);
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int n = kMma * split_ + 2 * t_ + 8 * tile + e % 2;
        const int t = begin + (n >> call_.layout.entry_shift);
        if (t >= first && t < end && column_ + e / 2 * 8 < args_.shape.value_dim) {
          visit(t, n & (entries() - 1), e / 2, own[tile][e]);
        }
      }
    }
  }

  // Puts what the row's last tokens write into their ring.
  __device__ void Keep(int chunk, OwnTokens& own) {
    const int kept = row_.tokens - args_.window.ring();
    if (chunks_.end(chunk) > kept) {
      ForEntries(chunk, kept < 0 ? 0 : kept, own, [&](int t, int entry, int half, float x) {
        *head_.ValueOf(entries(), t, entry, column_ + 8 * half) = x;
      });
    }
  }

  __device__ void Write(int chunk, int query, OwnTokens& own) const {
    const int value_dim = args_.shape.value_dim;
    const int stride = args_.shape.output_heads() * value_dim;
    float* const out = out_ + query * value_dim;
    ForEntries(chunk, 0, own, [&](int t, int entry, int half, float x) {
      if (entry == entries() - 1) {
        out[int64_t{t} * stride + 8 * half] = x;
      }
    });
  }

  __device__ static const std::byte* Tile(const std::byte* stage, int slab, int tile) {
    return stage + (kMmas * slab + tile) * kParts * kTileBytes;
  }

  // out^T = S^T X^T, X being the rows of the next steps; returns the square after them.
  __device__ const std::byte* ReadState(PassTokens& out) {
#pragma unroll
    for (int tile = 0; tile < 2 * kMmas; ++tile) {
      Clear(out[tile]);
    }
    const std::byte* stage = nullptr;
#pragma unroll
    for (int step = 0; step < Stream::kSteps; ++step) {
      stage = stream_.Next();
#pragma unroll
      for (int slab = 0; slab < kSlabs; ++slab) {
        const int tile = 2 * (kSlabs * step + slab);
        const MmaA<kParts> a = SplitA<kParts>(state_[tile], state_[tile + 1]);
#pragma unroll
        for (int i = 0; i < kMmas; ++i) {
          MmaOfTile<kParts>(a, Tile(stage, split_ * kSlabs + slab, i), out[2 * i], out[2 * i + 1]);
        }
      }
    }
    return stage + Stream::kSquare;
  }

  // u of the warp's entries.
  __device__ void Erase(int chunk, OwnTokens& own) {
    PassTokens tokens;
    const std::byte* const square = ReadState(tokens);
    splits_.Sum(tokens, own);
    SubtractFromValues(chunk, own);
    splits_.Give(0, SplitA<kParts>(own[0], own[1]));
    splits_.Sync();
    Clear(own[0]);
    Clear(own[1]);
    for (int j = 0; j <= split_; ++j) {
      MmaOfTile<kParts>(splits_.Take(0, j), Tile(square, j, split_), own[0], own[1]);
    }
  }

  // Takes a segment of the chunk's entries in: steps [begin, end) of 16.
  __device__ void Fold(int operand, int segment, int begin, int end) {
#pragma unroll
    for (int step = 0; step < Stream::kSteps; ++step) {
      const int first = split_ * kSlabs;  // of the step
      const std::byte* const stage = stream_.Next() + first / kMmas * Stream::kFoldStage;
      const auto* decays = reinterpret_cast<const float*>(stage + Stream::kStage) +
                           segment * kSlice + first % kMmas * kMma + 2 * t_;
      float(*const state)[4] = state_ + 2 * kSlabs * step;
#pragma unroll
      for (int slab = 0; slab < kSlabs; ++slab) {
        // Added up by themselves: tensor cores cut their sums off, which would pull a state that
        // never forgets towards 0 with every product.
        float sums[2][4] = {};
#pragma unroll
        for (int j = 0; j < kMmas; ++j) {
          if (j >= begin && j < end) {
            MmaOfTile<kParts>(splits_.Take(operand, j), Tile(stage, first % kMmas + slab, j),
                              sums[0], sums[1]);
          }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int tile = 2 * slab + half;
          const float2 decay = *reinterpret_cast<const float2*>(decays + 8 * tile);
          state[tile][0] = fmaf(state[tile][0], decay.x, sums[half][0]);
          state[tile][1] = fmaf(state[tile][1], decay.y, sums[half][1]);
          state[tile][2] = fmaf(state[tile][2], decay.x, sums[half][2]);
          state[tile][3] = fmaf(state[tile][3], decay.y, sums[half][3]);
        }
      }
    }
    if (args_.state_dtype == DType::kBF16) {
#pragma unroll
      for (int i = 0; i < 4 * kTiles; ++i) {
        state_[i / 4][i % 4] = Rounded<__nv_bfloat16>(state_[i / 4][i % 4]);
      }
    }
  }

  __device__ void Chunk(int chunk) {
    OwnTokens own = {};
    stream_.FetchValues(chunk + 1);
    if constexpr (kErases) {
      Erase(chunk, own);
    } else {
      SubtractFromValues(chunk, own);
    }
    const MmaA<kParts> u = SplitA<kParts>(own[0], own[1]);
    const int operand = kErases ? 1 : chunk % 2;  // the last chunk's may still be read
    splits_.Give(operand, u);
    Keep(chunk, own);
#pragma unroll 1
    for (int query = 0; query < call_.layout.queries; ++query) {
      PassTokens tokens;
      const std::byte* const square = ReadState(tokens);
#pragma unroll
      for (int i = 0; i < kMmas; ++i) {
        if (i >= split_) {
          MmaOfTile<kParts>(u, Tile(square, split_, i), tokens[2 * i], tokens[2 * i + 1]);
        }
      }
      splits_.Sum(tokens, own);
      Write(chunk, query, own);
    }
    stream_.AwaitValues();
    const int store = entries() * chunks_.store(chunk) / kMma;
    int done = 0;
#pragma unroll 1
    for (int left = stream_.segments(chunk); left > 0; --left) {
      const bool stores = done < store;
      Fold(operand, stores ? 0 : 1, done, stores ? store : kMmas);
      done = store;
      if (stores) {
        StoreState();
      }
    }
  }

  const PromptCall& call_;
  const AdvanceArgs& args_;
  const unsigned row_index_;
  const Row row_;
  const Chunks chunks_;
  const int head_index_;
  const PassView head_;
  Stream stream_;
  const Splits splits_;
  const int split_;  // which of the keys and entries are this warp's
  const int g_;
  const int t_;
  const int column_;  // of this lane; it has column_ + 8, too
  float* const out_;  // its outputs for token 0
  float state_[kTiles][4];
};

template <int kKeys, bool kErases, int kParts>
__global__ void __launch_bounds__(PassStream<kKeys, kParts>::kMaxThreads)
    Pass(const __grid_constant__ PromptCall call, int buffers) {
  extern __shared__ __align__(128) std::byte shared[];
  AwaitInputs();
  Passer<kKeys, kErases, kParts> passer(call, static_cast<int>(blockIdx.z),
                                        static_cast<int>(blockIdx.y), buffers, shared);
  passer.Run();
}

int MostShared() {
  int device = 0, most = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return most;
}

template <int kKeys, bool kErases, int kParts>
void RunPass(const PromptCall& call, cudaStream_t stream) {
  using Stream = PassStream<kKeys, kParts>;
  const MemoryShape& shape = call.advance.args.shape;
  const auto kernel = Pass<kKeys, kErases, kParts>;
  // Warps of a block share what they read of the weights; blocks make use of the device.
  constexpr unsigned kMultiprocessors = 100;
  const unsigned others = static_cast<unsigned>(shape.heads * call.rows.count);
  const unsigned columns = CeilDiv(shape.value_dim, kPassColumns);
  const int most = MostShared();
  const bool all = Stream::SharedBytes(1, Stream::kMostBuffers) <= most;
  const int buffers = all ? Stream::kMostBuffers : Stream::kLeastBuffers;
  int groups = Stream::kMaxGroups;
  while (groups > 1 && (CeilDiv(columns, groups) * others < kMultiprocessors ||
                        Stream::SharedBytes(groups, buffers) > most)) {
    groups /= 2;
  }
  const int bytes = Stream::SharedBytes(groups, buffers);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const dim3 blocks(CeilDiv(columns, groups), static_cast<unsigned>(shape.heads),
                    static_cast<unsigned>(call.rows.count));
  Launch(kernel, {blocks, 32 * kSplits * groups, static_cast<size_t>(bytes)}, stream, call,
         buffers);
}

// Calls visit.template operator()<kKeys, kParts>().
template <class Visit>
auto VisitPass(const WeightLayout& layout, const Visit& visit) {
  const auto with_parts = [&]<int kKeys>() {
    return layout.parts == kFastParts ? visit.template operator()<kKeys, kFastParts>()
                                      : visit.template operator()<kKeys, kExactParts>();
  };
  switch (kSlice * layout.slices) {
    case 64:
      return with_parts.template operator()<64>();
    case 128:
      return with_parts.template operator()<128>();
    default:
      return with_parts.template operator()<256>();
  }
}

}  // namespace

bool PassFits(const WeightLayout& layout) {
  const int least = VisitPass(layout, [&]<int kKeys, int kParts>() {
    using Stream = PassStream<kKeys, kParts>;
    return Stream::SharedBytes(1, Stream::kLeastBuffers);
  });
  return least <= MostShared();
}

void PassPrompts(const PromptCall& call, cudaStream_t stream) {
  VisitPass(call.layout, [&]<int kKeys, int kParts>() {
    if (call.layout.erases) {
      RunPass<kKeys, true, kParts>(call, stream);
    } else {
      RunPass<kKeys, false, kParts>(call, stream);
    }
  });
}

}  // namespace evenflow
