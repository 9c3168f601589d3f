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

  __device__ void AskForState(CopyBarrier* here) const {
    here->Copy(data_, stored_, kDim * width_ * static_cast<int>(sizeof(State)));
  }

  // Those of the pending block, or else of the token's.
  __device__ void AskForValues(const Window& window) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int e = quad_lane_ + kQuadLanes * i;
      if (exists() && e < (window.pending > 0 ? window.pending_entries() : window.entries())) {
        ahead_[i] = Value(window.Entry(e));
      }
    }
  }

  __device__ void AppendValues(const Window& window, const float (&u)[T::kEntries]) const {
#pragma unroll
    for (int n = 0; n < T::kEntries; ++n) {
      values_[(window.place * T::kEntries + n) * width_ + lane_ / 2] = u[n];
    }
  }

  // Adds what the state brings to S^T x before the token, its decay left out. Folds and stores on
  // the way, for tokens to come in shared memory, too.
  __device__ void ReadState(const Window& window, bool more, Sums& sums, HealthPart* health) const {
    if (window.pending > 0) {
      ReadRows<true>(window, more, sums, health);
    } else {
      ReadRows<false>(window, more, sums, health);
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
        add(e, window.pending > 0 ? value(e) : ahead_[i]);
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

  __device__ float4 Value(int index) const {
    return __ldcg(reinterpret_cast<const float4*>(values_ + index * width_ + quad_ * kQuad));
  }

  __device__ void LoadRow(int row, float (&s)[kQuad]) const {
    if constexpr (sizeof(State) == 4) {
      const float4 quad = *reinterpret_cast<const float4*>(data_ + (quad_ * kDim + row) * kQuad);
      s[0] = quad.x, s[1] = quad.y, s[2] = quad.z, s[3] = quad.w;
    } else {
      const uint2 quad = *reinterpret_cast<const uint2*>(data_ + (quad_ * kDim + row) * kQuad);
      s[0] = __uint_as_float(quad.x << 16);
      s[1] = __uint_as_float(quad.x & 0xffff0000u);
      s[2] = __uint_as_float(quad.y << 16);
      s[3] = __uint_as_float(quad.y & 0xffff0000u);
    }
  }

  template <bool kFolds>
  __device__ void ReadRows(const Window& window, bool more, Sums& sums, HealthPart* health) const {
#pragma unroll
    for (int chunk = 0; chunk < Shape::kRows; chunk += kChunk) {
      float s[kChunk][kQuad];
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        LoadRow(quad_lane_ + kQuadLanes * (chunk + i), s[i]);
      }
      if constexpr (kFolds) {
        Fold(window, quad_lane_ + kQuadLanes * chunk, s);
        if (more) {
          __syncwarp();  // lanes of quads that the tile lacks have read what is overwritten
        }
        if (window.stores && owns()) {
#pragma unroll
          for (int i = 0; i < kChunk; ++i) {
            const int row = quad_lane_ + kQuadLanes * (chunk + i);
            StoreRow(stored_, row, s[i]);
            if (more) {
              StoreRow(data_, row, s[i]);
            }
#pragma unroll
            for (int c = 0; c < kQuad; ++c) {
              health->Observe(s[i][c]);
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
#pragma unroll
        for (int read = 0; read < kReads; ++read) {
          const float x = window.Read(read)[quad_lane_ + kQuadLanes * (chunk + i)];
#pragma unroll
          for (int c = 0; c < kQuad; ++c) {
            sums[read][c] = fmaf(x, s[i][c], sums[read][c]);
          }
        }
      }
    }
  }

  __device__ void StoreRow(State* tile, int row, const float (&s)[kQuad]) const {
    State* to = tile + (quad_ * kDim + row) * kQuad;
    if constexpr (sizeof(State) == 4) {
      *reinterpret_cast<float4*>(to) = make_float4(s[0], s[1], s[2], s[3]);
    } else {  // rounded already
      *reinterpret_cast<uint2*>(to) =
          make_uint2(__float_as_uint(s[0]) >> 16 | __float_as_uint(s[1]),
                     __float_as_uint(s[2]) >> 16 | __float_as_uint(s[3]));
    }
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
  __device__ void Fold(const Window& window, int row, float (&s)[kChunk][kQuad]) const {
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
