// A warp's tile in the decode kernel: 16 columns of a head's state, and the values of the entries
// before the token. Sums have the order of kernels/cuda/quad.cuh.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_TILE_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_TILE_CUH_

#include "kernels/cuda/decode_window.cuh"

namespace evenflow {

template <class Shape>
class DecodeTile {
 public:
  using State = typename Shape::State;
  using T = typename Shape::T;
  using Window = DecodeWindow<Shape>;
  static constexpr int kDim = Shape::kKeyDim;
  static constexpr int kReads = T::kReads;
  using Sums = float[kReads][kQuad];  // for each read, of a lane's rows in its quad's columns

  // From column `column` of the head on; `data` is the state in shared memory.
  __device__ DecodeTile(const AdvanceCall& call, std::byte* layer, int head, int column, char* data)
      : lane_(static_cast<int>(threadIdx.x % 32)),
        quad_lane_(static_cast<int>(threadIdx.x % kQuadLanes)),
        first_(column),
        width_(TileWidth(call.args.shape.value_dim, column)),
        quad_(QuadOfLane() * kQuad < width_ ? QuadOfLane() : 0),
        data_(reinterpret_cast<State*>(data)) {
    const int64_t begin = int64_t{head} * call.args.shape.value_dim + column;
    stored_ = reinterpret_cast<State*>(layer + call.layout.committed) + begin * kDim;
    values_ = reinterpret_cast<float*>(layer + call.layout.values) +
              begin * T::kEntries * call.args.window.ring();
  }

  // Behind a head's last tile there are none.
  __device__ bool exists() const { return width_ > 0; }

  // Lanes of quads that a narrow tile lacks repeat its first and own none.
  __device__ bool owns() const { return QuadOfLane() * kQuad < width_; }

  // Two lanes have a column.
  __device__ int column() const { return first_ + lane_ / 2; }

  // Of the head's tiles.
  __device__ int index() const { return first_ / kTile; }

  __device__ void AskForState(CopyBarrier* here, bool once) const {
    here->Copy(data_, stored_, StateBytes(), once);
  }

  // Of the entries that the window's next sum goes over: a fold's, else those of the token's block.
  __device__ void AskForValues(const Window& window) {
    const int begin = window.folds ? 0 : window.pending_entries();
    const int count = window.folds ? window.pending_entries() : window.entries();
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int e = quad_lane_ + kQuadLanes * i;
      if (exists() && e < count) {
        ahead_[i] = Value(window.Entry(begin + e));
      }
    }
  }

  __device__ void AppendValues(const Window& window, const float (&u)[T::kEntries]) const {
#pragma unroll
    for (int n = 0; n < T::kEntries; ++n) {
      values_[(window.place * T::kEntries + n) * width_ + lane_ / 2] = u[n];
    }
  }

  // Takes the state in shared memory over the pending block, and tells its health.
  __device__ HealthPart Fold(const Window& window) const {
    HealthPart health;
#pragma unroll 1
    for (int row = quad_lane_; row < kDim; row += kQuadLanes * kChunk) {
      float s[kChunk][kQuad];
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const float4 loaded = LoadRow(row + kQuadLanes * i);
        s[i][0] = loaded.x, s[i][1] = loaded.y, s[i][2] = loaded.z, s[i][3] = loaded.w;
      }
      FoldRows(window, row, s);
      __syncwarp();  // lanes of quads that the tile lacks have read what is overwritten
      if (owns()) {
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          StoreQuad(make_float4(s[i][0], s[i][1], s[i][2], s[i][3]), Row(row + kQuadLanes * i));
#pragma unroll
          for (int c = 0; c < kQuad; ++c) {
            health.Observe(s[i][c]);
          }
        }
      }
    }
    return health;
  }

  // From shared memory into the slot.
  __device__ void StoreState() const {
    CopyOut(stored_, data_, StateBytes());
  }

  // Adds what the state brings to S^T x before the token, its decay left out.
  __device__ void ReadState(const Window& window, Sums& sums) const {
#pragma unroll
    for (int chunk = 0; chunk < Shape::kRows; chunk += kChunk) {
      float4 s[kChunk];
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        s[i] = LoadRow(quad_lane_ + kQuadLanes * (chunk + i));
      }
#pragma unroll
      for (int read = 0; read < kReads; ++read) {
        const float* x = window.Read(read) + Shape::kLaneStride * quad_lane_ + chunk;
#pragma unroll
        for (int i = 0; i < kChunk; i += 4) {
          const float4 four = *reinterpret_cast<const float4*>(x + i);
          AddScaled(four.x, s[i], sums[read]);
          AddScaled(four.y, s[i + 1], sums[read]);
          AddScaled(four.z, s[i + 2], sums[read]);
          AddScaled(four.w, s[i + 3], sums[read]);
        }
      }
    }
  }

  // Scales what was read of the state and adds what the entries of the block bring.
  __device__ void ReadEntries(const Window& window, Sums& sums) const {
    const float scale = window.StateDecay();
#pragma unroll
    for (int read = 0; read < kReads; ++read) {
#pragma unroll
      for (int c = 0; c < kQuad; ++c) {
        sums[read][c] *= scale;
      }
    }
    const auto add = [&](int e, float4 u) {
#pragma unroll
      for (int read = 0; read < kReads; ++read) {
        AddScaled(window.Weight(read, e), u, sums[read]);
      }
    };
    const auto value = [&](int e) { return Value(window.Entry(window.pending_entries() + e)); };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int e = quad_lane_ + kQuadLanes * i;
      if (e < window.entries()) {
        add(e, ahead_[i]);
      }
    }
#pragma unroll 1
    for (int e = quad_lane_ + kQuadLanes * kAhead; e < window.entries(); e += kQuadLanes) {
      add(e, value(e));
    }
    __syncwarp();
  }

 private:
  static constexpr int kChunk = 8;                // rows in registers at a time
  static constexpr int kAhead = 2 * T::kEntries;  // entries a lane whose values are loaded ahead

  __device__ int QuadOfLane() const {
    return lane_ / kQuadLanes;
  }

  __device__ int StateBytes() const {
    return kDim * width_ * static_cast<int>(sizeof(State));
  }

  __device__ float4 Value(int index) const {
    return __ldcg(reinterpret_cast<const float4*>(values_ + index * width_ + quad_ * kQuad));
  }

  // Of the lane's quad, in shared memory.
  __device__ State* Row(int row) const {
    return data_ + (quad_ * kDim + row) * kQuad;
  }

  __device__ float4 LoadRow(int row) const {
    return ToFloats(*reinterpret_cast<const RawQuad<State>*>(Row(row)));
  }

  // Of the pending entry begin + quad_lane_.
  __device__ float4 PendingValues(const Window& window, int begin) const {
    if (begin < kAhead * kQuadLanes) {
      float4 values = ahead_[0];
#pragma unroll
      for (int i = 1; i < kAhead; ++i) {
        values = begin < i * kQuadLanes ? values : ahead_[i];
      }
      return values;
    }
    return Value(window.Entry(Least(begin + quad_lane_, window.pending_entries() - 1)));
  }

  __device__ static float4 OfQuadLane(float4 v, int lane) {
    const auto of = [&](float x) { return __shfl_sync(kWarp, x, lane, kQuadLanes); };
    return make_float4(of(v.x), of(v.y), of(v.z), of(v.w));
  }

  // Takes kChunk rows, from `row` on, over the pending block.
  __device__ void FoldRows(const Window& window, int row, float (&s)[kChunk][kQuad]) const {
    const float shared_decay = T::kChannels ? 1 : window.FoldDecay(0);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float decay = T::kChannels ? window.FoldDecay(row + kQuadLanes * i) : shared_decay;
#pragma unroll
      for (int c = 0; c < kQuad; ++c) {
        s[i][c] *= decay;
      }
    }
#pragma unroll 1
    for (int begin = 0; begin < window.pending_entries(); begin += kQuadLanes) {
      const float4 values = PendingValues(window, begin);
#pragma unroll 2
      for (int j = begin; j < Least(window.pending_entries(), begin + kQuadLanes); ++j) {
        const float4 u = OfQuadLane(values, j - begin);
        const float* key = window.Key(window.Entry(j)) + row;
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          AddScaled(key[kQuadLanes * i], u, s[i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
#pragma unroll
      for (int c = 0; c < kQuad; ++c) {
        s[i][c] = Rounded<State>(s[i][c]);
      }
    }
  }

  const int lane_, quad_lane_;
  const int first_, width_;  // columns
  const int quad_;           // of the tile
  State* const data_;        // in shared memory
  State* stored_;            // in the slot
  float* values_;            // likewise
  float4 ahead_[kAhead];     // of the loaded entries quad_lane_ + 8 i
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_TILE_CUH_
