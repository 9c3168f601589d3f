// Takes rows from chunk to chunk: see kernels/cuda/prefill.cuh. A block has a row's head and some
// of its columns. A warp has 16 columns of the state and all keys, or every second slice of 64:
// S^T [16, keys] stays in registers, where it lies as an operand of the products that read it.
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

  __device__ Passer(const PromptCall& call, int prompt, int head, std::byte* shared)
      : call_(call),
        args_(call.advance.args),
        row_index_(static_cast<unsigned>(call.rows.row[prompt])),
        row_(call.advance.rows[row_index_]),
        chunks_(call.advance, row_),
        head_index_(head),
        head_(call.advance, row_, head),
        stream_(call, call.rows.first_item[prompt], head, head_, chunks_, shared),
        splits_(stream_.exchange()),
        split_(splits_.split()),
        group_(splits_.group()),
        g_(splits_.lane() / 4),
        t_(splits_.lane() % 4),
        column_(stream_.column() + kPassColumns * group_ + g_),
        out_(head_.Output(0, 0) + column_) {}

  __device__ void Run() {
    stream_.Begin();
    LoadState();
    for (int chunk = 0; chunk < chunks_.count(); ++chunk) {
      Chunk(chunk);
    }
  }

 private:
  static constexpr int kSplits = Stream::kSplits;
  static constexpr int kSlices = kKeys / kSlice / kSplits;  // of the warp's keys
  using Tokens = PassTokens;
  using Operand = MmaA<kParts>[kMmas];

  // Visits this lane's elements of the state: (element, index in the head's state, column's half).
  template <class Visit>
  __device__ void ForState(const Visit& visit) {
    const int key_dim = args_.shape.key_dim, value_dim = args_.shape.value_dim;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = column_ + 8 * half;
      int first = split_ * kSlice + 2 * t_;
      asm volatile("" : "+r"(first));  // or addresses are computed for chunks that need none
      const int width = QuadWidth(value_dim, column / kQuad * kQuad);
      const auto begin = static_cast<int>(StateIndex(key_dim, value_dim, first, column));
      const int keys = column < value_dim ? key_dim - first : 0;
#pragma unroll
      for (int tile = 0; tile < 8 * kSlices; ++tile) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int key = tile / 8 * kSplits * kSlice + tile % 8 * 8 + e;
          if (key < keys) {
            visit(state_[tile][2 * half + e], begin + key * width, half);
          }
        }
      }
    }
  }

  __device__ void LoadState() {
#pragma unroll
    for (int tile = 0; tile < 8 * kSlices; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        state_[tile][e] = 0;
      }
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
    HealthPart* const of_head =
        call_.advance.Parts(row_index_) + head_index_ * Quads(args_.shape.value_dim);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      HealthPart& part = parts[i];
      splits_.Sum(part);
      part.SumLanes(16);
      const int column = column_ + 8 * i;
      if (split_ == 0 && splits_.lane() % 16 == 0 && column < args_.shape.value_dim) {
        of_head[column / kQuad] = part;
      }
    }
  }

  __device__ static void Clear(Tokens& tokens) {
#pragma unroll
    for (int tile = 0; tile < 2 * kMmas; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        tokens[tile][e] = 0;
      }
    }
  }

  __device__ static void Cut(const Tokens& tokens, Operand& operand) {
#pragma unroll
    for (int j = 0; j < kMmas; ++j) {
      operand[j] = SplitA<kParts>(tokens[2 * j], tokens[2 * j + 1]);
    }
  }

  // x = the chunk's values - x.
  __device__ void SubtractFromValues(int chunk, Tokens& x) const {
    const int stride = stream_.value_stride();
    const float* const values =
        stream_.Values(chunk) + 2 * t_ * stride + kPassColumns * group_ + g_;
#pragma unroll
    for (int tile = 0; tile < 2 * kMmas; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        x[tile][e] = values[(8 * tile + e % 2) * stride + e / 2 * 8] - x[tile][e];
      }
    }
  }

  // Puts what the row's last tokens write into their ring.
  __device__ void Keep(int chunk, const Tokens& tokens) {
    const int begin = chunks_.begin(chunk), end = chunks_.end(chunk);
    const int kept = row_.tokens - args_.window.ring();
    if (end <= kept || split_ != 0) {
      return;
    }
    float4* const own = splits_.Room() + splits_.lane();  // registers have no index
#pragma unroll
    for (int tile = 0; tile < 2 * kMmas; ++tile) {
      const float(&x)[4] = tokens[tile];
      own[32 * tile] = make_float4(x[0], x[1], x[2], x[3]);
    }
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < 8 * kMmas; ++i) {
      const int t = begin + i / 4 * 8 + 2 * t_ + i % 2;
      const int column = column_ + i % 4 / 2 * 8;
      if (t >= 0 && t >= kept && t < end && column < args_.shape.value_dim) {
        *head_.Value(t, 0, column) = reinterpret_cast<const float*>(own + 32 * (i / 4))[i % 4];
      }
    }
  }

  __device__ void Write(int chunk, int query, const Tokens& tokens) const {
    const int value_dim = args_.shape.value_dim;
    const int stride = args_.shape.output_heads() * value_dim;
    const int first = chunks_.begin(chunk) + 2 * t_;
    const int begin = -first, end = chunks_.end(chunk) - first;
    float* even = out_ + int64_t{first} * stride + query * value_dim;
    float* odd = even + stride;
    const bool there[2] = {column_ < value_dim, column_ + 8 < value_dim};
#pragma unroll
    for (int tile = 0; tile < 2 * kMmas; ++tile) {
      if (splits_.IsOwn(tile)) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int t = 8 * tile + e % 2;
          if (t >= begin && t < end && there[e / 2]) {
            (e % 2 == 0 ? even : odd)[e / 2 * 8] = tokens[tile][e];
          }
        }
      }
      even += 8 * stride;
      odd += 8 * stride;
    }
  }

  __device__ static const std::byte* Tile(const std::byte* stage, int slab, int tile) {
    return stage + (kMmas * slab + tile) * kParts * kTileBytes;
  }

  // out^T += S^T X^T, X being the rows of the next stages.
  __device__ void ReadState(Tokens& out) {
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
      const std::byte* const stage = stream_.Next() + split_ * Stream::kStage;
#pragma unroll
      for (int slab = 0; slab < kMmas; ++slab) {
        const int tile = 2 * (kMmas * slice + slab);
        const MmaA<kParts> a = SplitA<kParts>(state_[tile], state_[tile + 1]);
#pragma unroll
        for (int i = 0; i < kMmas; ++i) {
          MmaOfTile<kParts>(a, Tile(stage, slab, i), out[2 * i], out[2 * i + 1]);
        }
      }
    }
  }

  // out^T += U^T X^T, X being the lower triangle in the next stage: all of it, or the warp's share.
  template <bool kAll>
  __device__ void ReadTokens(const Operand& u, Tokens& out) {
    const std::byte* const stage = stream_.Next();
#pragma unroll
    for (int j = 0; j < kMmas; ++j) {
      if (kAll || j % kSplits == split_) {
#pragma unroll
        for (int i = j; i < kMmas; ++i) {
          MmaOfTile<kParts>(u[j], Tile(stage, j, i), out[2 * i], out[2 * i + 1]);
        }
      }
    }
  }

  // Takes a segment of the chunk's tokens in: steps [begin, end) of 16.
  __device__ void Fold(const Operand& u, int segment, int begin, int end) {
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
      const std::byte* const stage = stream_.Next() + split_ * Stream::kFoldStage;
      const auto* decays =
          reinterpret_cast<const float*>(stage + Stream::kStage) + segment * kSlice + 2 * t_;
      float(*const state)[4] = state_ + 8 * slice;
#pragma unroll
      for (int tile = 0; tile < 8; ++tile) {
        const float2 decay = *reinterpret_cast<const float2*>(decays + 8 * tile);
        state[tile][0] *= decay.x;
        state[tile][1] *= decay.y;
        state[tile][2] *= decay.x;
        state[tile][3] *= decay.y;
      }
#pragma unroll
      for (int j = 0; j < kMmas; ++j) {
        if (j >= begin && j < end) {
#pragma unroll
          for (int slab = 0; slab < kMmas; ++slab) {
            MmaOfTile<kParts>(u[j], Tile(stage, slab, j), state[2 * slab], state[2 * slab + 1]);
          }
        }
      }
      if (args_.state_dtype == DType::kBF16) {
#pragma unroll
        for (int i = 0; i < 32; ++i) {
          state[i / 4][i % 4] = Rounded<__nv_bfloat16>(state[i / 4][i % 4]);
        }
      }
    }
  }

  __device__ void Chunk(int chunk) {
    Tokens tokens;
    Operand u;
    stream_.Await(chunk);
    if constexpr (kErases) {
      Clear(tokens);
      ReadState(tokens);
      splits_.template Sum<true>(tokens);
      SubtractFromValues(chunk, tokens);
      Cut(tokens, u);
      Clear(tokens);
      ReadTokens<true>(u, tokens);
      Cut(tokens, u);
      Keep(chunk, tokens);
    } else {
      Clear(tokens);
      SubtractFromValues(chunk, tokens);
      Cut(tokens, u);
      Keep(chunk, tokens);
    }
#pragma unroll 1
    for (int query = 0; query < call_.layout.queries; ++query) {
      Clear(tokens);
      ReadState(tokens);
      ReadTokens<false>(u, tokens);
      splits_.template Sum<false>(tokens);
      Write(chunk, query, tokens);
    }
    const int store = chunks_.store(chunk) / kMma;
    int done = 0;
#pragma unroll 1
    for (int left = stream_.segments(chunk); left > 0; --left) {
      const bool stores = done < store;
      Fold(u, stores ? 0 : 1, done, stores ? store : kMmas);
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
  WarpSplits<kSplits> splits_;
  const int split_;  // which of the slices are this warp's
  const int group_;  // of columns
  const int g_;
  const int t_;
  const int column_;  // of this lane; it has column_ + 8, too
  float* const out_;  // its outputs for token 0
  float state_[8 * kSlices][4];
};

template <int kKeys, bool kErases, int kParts>
__global__ void __launch_bounds__(PassStream<kKeys, kParts>::kMaxThreads)
    Pass(const __grid_constant__ PromptCall call) {
  extern __shared__ float4 shared[];
  AwaitInputs();
  Passer<kKeys, kErases, kParts> passer(call, static_cast<int>(blockIdx.z),
                                        static_cast<int>(blockIdx.y),
                                        reinterpret_cast<std::byte*>(shared));
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
  int groups = Stream::kMaxGroups;
  while (groups > 1 && (CeilDiv(columns, groups) * others < kMultiprocessors ||
                        Stream::SharedBytes(groups) > most)) {
    groups /= 2;
  }
  const int bytes = Stream::SharedBytes(groups);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const dim3 blocks(CeilDiv(columns, groups), static_cast<unsigned>(shape.heads),
                    static_cast<unsigned>(call.rows.count));
  Launch(kernel, {blocks, 32 * Stream::kSplits * groups, static_cast<size_t>(bytes)}, stream, call);
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
  const int least = VisitPass(
      layout, [&]<int kKeys, int kParts>() { return PassStream<kKeys, kParts>::SharedBytes(1); });
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
