// Advances memories of any shape, any number of tokens a row: a block owns a row's head and up to
// 128 columns, holds their state on chip and goes from token to token, as kernels/cpu/advance.cc
// does.
#include <algorithm>
#include <bit>

#include "kernels/cuda/around_advance.cuh"
#include "kernels/cuda/head_view.cuh"

namespace evenflow {
namespace {

constexpr int kMaxStateBytes = 96 << 10;  // of a block, so that two blocks share a multiprocessor
constexpr int kMaxWarps = 8;

// A block's dynamic shared memory.
struct Shared {
  float4* state;   // [quad of the block, key]
  float4* values;  // [quad of the block, entry of a block of positions]: those being folded
  float* weights;  // [token of a block of positions, read, entry]

  static size_t Bytes(const AdvanceArgs& args, int warps, int entries, int reads) {
    const int commit = args.window.commit;
    return sizeof(float) *
           static_cast<size_t>(kWarpColumns * warps * (args.shape.key_dim + commit * entries) +
                               commit * commit * entries * reads);
  }
};

template <class Memory, class State>
class Block {
 public:
  using T = Traits<Memory>;
  static constexpr int kEntries = T::kEntries;
  static constexpr int kErasing = std::popcount(T::kErasing);

  __device__ Block(const AdvanceCall& call, int row_index, int head, int column, float* shared)
      : call_(call),
        row_(call.rows[row_index]),
        row_index_(row_index),
        head_index_(head),
        head_(call, row_, head),
        dim_(call.args.shape.key_dim),
        value_dim_(call.args.shape.value_dim),
        commit_(call.args.window.commit),
        entries_(commit_ * kEntries),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        quad_lane_(lane_ % kQuadLanes),
        warps_(static_cast<int>(blockDim.x) / 32),
        column_(column + kQuad * (static_cast<int>(threadIdx.x) / kQuadLanes)),
        width_(QuadWidth(value_dim_, column_)) {
    const int quad = static_cast<int>(threadIdx.x) / kQuadLanes;
    const int quads = warps_ * kWarpQuads;
    shared_.state = reinterpret_cast<float4*>(shared) + quad * dim_;
    shared_.values = reinterpret_cast<float4*>(shared) + quads * dim_ + quad * entries_;
    shared_.weights = shared + kQuad * quads * (dim_ + entries_);
  }

  __device__ void Run() {
    const int64_t stored = call_.Stored(row_);
    const int64_t stored_after = call_.StoredAfter(row_, stored);
    int base = static_cast<int>(stored - row_.position);  // all from here on by distance
    const int base_after = static_cast<int>(stored_after - row_.position);
    int block = static_cast<int>(call_.args.window.Block(row_.position) - row_.position);
    LoadState();
    for (int t = 0; t < row_.tokens; block += commit_) {
      const int end = Least(row_.tokens, block + commit_);
      for (; base < block; base += commit_) {
        Fold(base);
        if (base + commit_ == base_after) {
          StoreState();
        }
      }
      Weigh(block, t, end);
      __syncthreads();
      for (int first = t; t < end; ++t) {
        Advance(block, t, shared_.weights + (t - first) * reads() * entries_);
      }
      __syncthreads();
    }
  }

 private:
  __device__ int reads() const { return kErasing + head_.queries(); }

  // For each entry that erases its key, then the queries.
  __device__ const float* Read(int t, int read) const {
    for (int n = 0; n < kEntries; ++n) {
      if ((T::kErasing >> n & 1) != 0 && read-- == 0) {
        return head_.ErasedKey(t, n);
      }
    }
    return head_.Query(t, read);
  }

  __device__ State* QuadState() const {
    return head_.template StateData<State>() + int64_t{column_} * dim_;
  }

  __device__ void LoadState() {
    const State* from = QuadState();
    for (int r = quad_lane_; r < dim_; r += kQuadLanes) {
      float s[kQuad] = {};
      for (int c = 0; c < width_; ++c) {
        s[c] = ToFloat(from[r * width_ + c]);
      }
      shared_.state[r] = make_float4(s[0], s[1], s[2], s[3]);
    }
  }

  __device__ void StoreState() {
    State* to = QuadState();
    HealthPart part;
    for (int r = quad_lane_; r < dim_; r += kQuadLanes) {
      const float4 quad = shared_.state[r];
      const float s[kQuad] = {quad.x, quad.y, quad.z, quad.w};
      for (int c = 0; c < width_; ++c) {
        to[r * width_ + c] = FromFloat<State>(s[c]);
        part.Observe(s[c]);
      }
    }
    part.SumLanes(kQuadLanes);
    if (quad_lane_ == 0 && width_ > 0) {
      const int64_t head = int64_t{row_index_} * call_.args.shape.heads + head_index_;
      call_.parts[head * Quads(value_dim_) + column_ / kQuad] = part;
    }
  }

  // u of an entry, counted from the first of token t.
  __device__ float4 Value(int t, int entry) const {
    const float* u = head_.Value(t + entry / kEntries, entry % kEntries, column_);
    return make_float4(width_ > 0 ? u[0] : 0, width_ > 1 ? u[1] : 0, width_ > 2 ? u[2] : 0,
                       width_ > 3 ? u[3] : 0);
  }

  // w_j e^{l_i - l_j} of row r, for channels; log_i may be nullptr where they do not decay.
  __device__ static float DecayedKey(const float* key, const float* log_i, const float* log_j,
                                     int r) {
    return T::kChannels ? key[r] * expf(log_i[r] - log_j[r]) : key[r];
  }

  // Takes the quad over the block of tokens that begins at `first`.
  __device__ void Fold(int first) {
    const int last = first + commit_ - 1;
    for (int j = quad_lane_; j < entries_; j += kQuadLanes) {
      shared_.values[j] = Value(first, j);
    }
    __syncwarp();
    const float* log_last = T::kLogs ? head_.Log(last) : nullptr;
    for (int r = quad_lane_; r < dim_; r += kQuadLanes) {
      float4 s = shared_.state[r];
      const float decay =
          T::kChannels ? expf(log_last[r]) : head_.Decay(commit_, T::kLogs ? *log_last : 0, 0);
      s = make_float4(s.x * decay, s.y * decay, s.z * decay, s.w * decay);
      for (int j = 0; j < entries_; ++j) {
        const int token = j / kEntries;
        const float* log = T::kLogs ? head_.Log(first + token) : nullptr;
        float w = DecayedKey(head_.Key(first + token, j % kEntries), log_last, log, r);
        if constexpr (!T::kChannels && Memory::kDecay != Decay::kNone) {
          w *= head_.Decay(commit_ - 1 - token, T::kLogs ? *log_last : 0, T::kLogs ? *log : 0);
        }
        const float4 u = shared_.values[j];
        s = make_float4(fmaf(w, u.x, s.x), fmaf(w, u.y, s.y), fmaf(w, u.z, s.z), fmaf(w, u.w, s.w));
      }
      shared_.state[r] = make_float4(Rounded<State>(s.x), Rounded<State>(s.y), Rounded<State>(s.z),
                                     Rounded<State>(s.w));
    }
    __syncwarp();
  }

  // weights[i - begin, read, entry] = ((w_j e^{l_i - l_j}) . x) for tokens i of [begin, end) and
  // the entries of tokens j <= i of their block.
  __device__ void Weigh(int block, int begin, int end) {
    const int pairs = (end - begin) * reads() * entries_;
    for (int pair = warp_; pair < pairs; pair += warps_) {
      const int j = block + pair % entries_ / kEntries;
      const int read = pair / entries_ % reads();
      const int i = begin + pair / entries_ / reads();
      if (j > i) {
        continue;
      }
      const float* x = Read(i, read);
      const float* key = head_.Key(j, pair % kEntries);
      const float* log_i = T::kLogs ? head_.Log(i) : nullptr;
      const float* log_j = T::kLogs ? head_.Log(j) : nullptr;
      float sum = 0;
      for (int r = lane_; r < dim_; r += 32) {
        sum = fmaf(DecayedKey(key, log_i, log_j, r), x[r], sum);
      }
      sum = WarpSum(sum) * head_.Decay(i - j, T::kLogs ? *log_i : 0, T::kLogs ? *log_j : 0);
      if (lane_ == 0) {
        shared_.weights[pair] = sum;
      }
    }
  }

  // S^T x, from the state and the entries of the block before token t: that of the lane's
  // column, quad_lane_ / 2 of the quad.
  __device__ float ReadState(int block, int t, const float* x, const float* weights) {
    const float* log = T::kLogs ? head_.Log(t) : nullptr;
    float sum[kQuad] = {};
    for (int r = quad_lane_; r < dim_; r += kQuadLanes) {
      const float4 s = shared_.state[r];
      AddScaled(T::kChannels ? x[r] * expf(log[r]) : x[r], s, sum);
    }
    const float scale = head_.Decay(t - block + 1, T::kLogs ? *log : 0, 0);
    for (int c = 0; c < kQuad; ++c) {
      sum[c] *= scale;
    }
    for (int j = quad_lane_; j < (t - block) * kEntries; j += kQuadLanes) {
      AddScaled(weights[j], Value(block, j), sum);
    }
    return SumQuad(sum);
  }

  // Appends token t's values and writes what it reads. Two lanes compute a column, one writes it.
  __device__ void Advance(int block, int t, const float* weights) {
    const int c = quad_lane_ / 2;
    const bool owner = c < width_ && quad_lane_ % 2 == 0;
    const int own = (t - block) * kEntries;  // where the token's weights begin
    const float v = c < width_ ? head_.InputValue(t)[column_ + c] : 0;
    const float beta = head_.Beta(t);
    float u[kEntries];
    int read = 0;
#pragma unroll
    for (int n = 0; n < kEntries; ++n) {
      u[n] = (T::kWriting >> n & 1) != 0 ? v : 0;
      if ((T::kErasing >> n & 1) != 0) {
        float erased = ReadState(block, t, Read(t, read), weights);
        for (int before = 0; before < n; ++before) {
          erased = fmaf(weights[own + before], u[before], erased);
        }
        u[n] -= erased;
        ++read;
        weights += entries_;
      }
      u[n] *= (T::kWriting >> n & 1) != 0 ? beta : 1;
    }
    for (int query = 0; query < head_.queries(); ++query, weights += entries_) {
      float sum = ReadState(block, t, head_.Query(t, query), weights);
#pragma unroll
      for (int n = 0; n < kEntries; ++n) {
        sum = fmaf(weights[own + n], u[n], sum);
      }
      if (owner) {
        head_.Output(t, query)[column_ + c] = sum;
      }
    }
#pragma unroll
    for (int n = 0; n < kEntries; ++n) {
      if (owner) {
        head_.Value(t, n, column_)[c] = u[n];
      }
    }
    __syncwarp();
  }

  const AdvanceCall& call_;
  const Row row_;
  const int row_index_;
  const int head_index_;
  const HeadView<Memory> head_;
  const int dim_;
  const int value_dim_;
  const int commit_;
  const int entries_;  // of a block of positions
  const int warp_;
  const int lane_;
  const int quad_lane_;
  const int warps_;
  const int column_;  // of the lane's quad
  const int width_;   // <= 0: the lane has none, but helps with the weights
  Shared shared_;
};

template <class Memory, class State>
__global__ void __launch_bounds__(32 * kMaxWarps)
    AdvanceAny(const __grid_constant__ AdvanceCall call) {
  extern __shared__ float4 shared[];
  AwaitInputs();
  const int columns = static_cast<int>(blockDim.x) / 32 * kWarpColumns;
  const int parts = (call.args.shape.value_dim + columns - 1) / columns;
  const int row_head = static_cast<int>(blockIdx.x) / parts;
  const int row = row_head / call.args.shape.heads;
  if (!call.Takes(call.rows[row])) {
    return;
  }
  Block<Memory, State> block(call, row, row_head % call.args.shape.heads,
                             static_cast<int>(blockIdx.x) % parts * columns,
                             reinterpret_cast<float*>(shared));
  block.Run();
}

template <class Memory>
size_t SharedBytes(const AdvanceArgs& args, int warps) {
  const int queries =
      args.shape.query_heads > args.shape.heads ? args.shape.query_heads / args.shape.heads : 1;
  return Shared::Bytes(args, warps, kEntryCount<Memory>,
                       std::popcount(Traits<Memory>::kErasing) + queries);
}

template <class Memory, class State>
void Run(const AdvanceCall& call, const CudaStep& step) {
  const MemoryShape& shape = call.args.shape;
  const auto rows = static_cast<unsigned>(step.row_count);
  const auto heads = static_cast<unsigned>(shape.heads);
  LaunchSumLogs<Memory>(call, AllRows{step.row_count}, step);
  int warps = kMaxWarps;
  while (warps > 1 && (kWarpColumns * (warps - 1) >= shape.value_dim ||
                       static_cast<int>(sizeof(float)) * kWarpColumns * warps * shape.key_dim >
                           kMaxStateBytes)) {
    warps /= 2;
  }
  const size_t bytes = SharedBytes<Memory>(call.args, warps);
  const auto kernel = AdvanceAny<Memory, State>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(bytes));
  const unsigned parts = CeilDiv(shape.value_dim, warps * kWarpColumns);
  Launch(kernel, {dim3(rows * heads * parts), 32 * warps, bytes}, step.stream, call);
  LaunchFinish<Memory>(call, AllRows{step.row_count}, step);
}

}  // namespace

size_t LeastSharedOfAnyShape(const AdvanceArgs& args) {
  return VisitMemory(args.memory, [&]<class Memory>() { return SharedBytes<Memory>(args, 1); });
}

void AdvanceAnyShape(const AdvanceCall& call, const CudaStep& step) {
  VisitMemory(call.args.memory, [&]<class Memory>() {
    if constexpr (!Banked<Memory>) {
      if (call.args.state_dtype == DType::kF32) {
        Run<Memory, float>(call, step);
      } else {
        Run<Memory, __nv_bfloat16>(call, step);
      }
    }
  });
}

}  // namespace evenflow
