// The warps of a decode block that read states. Two warps share a tile, and each group of two has
// every kGroups-th stage to itself; sums have the order of kernels/cuda/advance.cuh.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_CONSUMER_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_CONSUMER_CUH_

#include "kernels/cuda/decode_tile.cuh"
#include "kernels/cuda/decode_unit.cuh"

namespace evenflow {

template <class Shape>
class DecodeConsumer {
 public:
  using Memory = typename Shape::Memory;
  using State = typename Shape::State;
  using T = Traits<Memory>;
  static constexpr int kRows = Shape::kRows;
  static constexpr int kDim = Shape::kKeyDim;
  static constexpr int kChunk = 8;  // rows in registers at a time

  __device__ DecodeConsumer(const AdvanceCall& call, const DecodePlan& plan,
                            const DecodeShared<Shape>& shared)
      : call_(call),
        plan_(plan),
        shared_(shared),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        quad_lane_(lane_ % kQuadLanes),
        quad_(warp_ % Shape::kGroupWarps * kWarpQuads + lane_ / kQuadLanes) {}

  __device__ void Run() {
    for (;;) {
      shared_.header->unit_ready[buffer_.index].Wait(buffer_.parity);
      const UnitInfo& info = shared_.header->info[buffer_.index];
      const Unit of = info.unit;
      if (of.tiles == 0) {
        return;
      }
      const DecodeUnit<Shape> unit(info, shared_.UnitData(buffer_.index),
                                   shared_.header->weights[buffer_.index][0], shared_.ring,
                                   call_.args.window.commit);
      bool begun = false;
      for (int tile = 0; tile < of.tiles; ++tile) {
        if (stage_.index % Shape::kGroups == warp_ / Shape::kGroupWarps) {
          if (!begun) {
            Begin(info, unit);
            begun = true;
          }
          UseTile(unit, (of.tile + tile) * kTile);
        }
        stage_.Next(plan_.stages);
      }
      __syncwarp();
      if (lane_ == 0) {
        shared_.header->unit_empty[buffer_.index].Arrive();
      }
      buffer_.Next(plan_.unit_buffers);
    }
  }

 private:
  __device__ void Begin(const UnitInfo& info, const DecodeUnit<Shape>& unit) {
    const MemoryShape& shape = call_.args.shape;
    const int64_t head = info.unit.head;
    out_ = call_.args.o + (int64_t{info.row.token} * shape.heads + head) * shape.value_dim;
    values_ = reinterpret_cast<float*>(info.layer + call_.layout.values) +
              head * shared_.ring * shape.value_dim;
    state_ = reinterpret_cast<State*>(info.layer + call_.layout.committed) +
             head * kDim * shape.value_dim;
    parts_ = call_.parts + (int64_t{info.unit.row} * shape.heads + head) * Quads(shape.value_dim);
    entry_ = info.row.entry;
    store_ = info.row.store;
    scale_ = unit.StateDecay();
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      query_[i] = unit.Query()[quad_lane_ + kQuadLanes * i];
      erase_[i] = T::kErases ? unit.EraseKey()[quad_lane_ + kQuadLanes * i] : 0;
    }
  }

  __device__ void UseTile(const DecodeUnit<Shape>& unit, int column) {
    shared_.header->stage_full[stage_.index].Wait(stage_.parity);
    DecodeTile<Shape> tile;
    tile.data = shared_.Stage(stage_.index);
    tile.width = TileWidth(call_.args.shape.value_dim, column);
    tile.own = kQuad * quad_ < tile.width;
    tile.quad = tile.own ? quad_ : 0;
    tile.column = column + kQuad * tile.quad;
    float query[kQuad] = {}, erase[kQuad] = {};
    if (unit.pending > 0) {
      ReadState<true>(unit, tile, query, erase);
    } else {
      ReadState<false>(unit, tile, query, erase);
    }
    ReadEntries(unit, tile, query, erase);
    Append(unit, tile, SumQuad(query), T::kErases ? SumQuad(erase) : 0);
    __syncwarp();
    if (lane_ == 0) {
      shared_.header->stage_empty[stage_.index].Arrive();
    }
  }

  template <bool kFolds>
  __device__ void ReadState(const DecodeUnit<Shape>& unit, const DecodeTile<Shape>& tile,
                            float (&query)[kQuad], float (&erase)[kQuad]) const {
    HealthPart part;
#pragma unroll
    for (int chunk = 0; chunk < kRows; chunk += kChunk) {
      float s[kChunk][kQuad];
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        tile.LoadRow(quad_lane_ + kQuadLanes * (chunk + i), s[i]);
      }
      if constexpr (kFolds) {
        Fold(unit, tile, kQuadLanes * chunk + quad_lane_, s);
        if (store_ && tile.own) {
#pragma unroll
          for (int i = 0; i < kChunk; ++i) {
            StoreRow(tile, quad_lane_ + kQuadLanes * (chunk + i), s[i], &part);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
#pragma unroll
        for (int c = 0; c < kQuad; ++c) {
          query[c] = fmaf(query_[chunk + i], s[i][c], query[c]);
          erase[c] = T::kErases ? fmaf(erase_[chunk + i], s[i][c], erase[c]) : 0;
        }
      }
    }
    if (kFolds && store_) {
      part.SumLanes(kQuadLanes);
      if (quad_lane_ == 0 && tile.own) {
        parts_[tile.column / kQuad] = part;
      }
    }
  }

  __device__ void StoreRow(const DecodeTile<Shape>& tile, int row, const float (&s)[kQuad],
                           HealthPart* part) const {
    State* quad = state_ + int64_t{tile.column} * kDim + row * kQuad;
    if constexpr (sizeof(State) == 4) {
      *reinterpret_cast<float4*>(quad) = make_float4(s[0], s[1], s[2], s[3]);
    } else {  // rounded already
      *reinterpret_cast<uint2*>(quad) =
          make_uint2(__float_as_uint(s[0]) >> 16 | __float_as_uint(s[1]),
                     __float_as_uint(s[2]) >> 16 | __float_as_uint(s[3]));
    }
#pragma unroll
    for (int c = 0; c < kQuad; ++c) {
      part->Observe(s[c]);
    }
  }

  // Takes kChunk rows, from `row` on, over the pending block.
  __device__ void Fold(const DecodeUnit<Shape>& unit, const DecodeTile<Shape>& tile, int row,
                       float (&s)[kChunk][kQuad]) const {
    const float shared_decay = unit.FoldDecay();
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float decay = T::kChannels ? unit.FoldDecays()[row + kQuadLanes * i] : shared_decay;
#pragma unroll
      for (int c = 0; c < kQuad; ++c) {
        s[i][c] *= decay;
      }
    }
#pragma unroll 2
    for (int j = 0; j < unit.pending; ++j) {
      const int entry = unit.Entry(j);
      const float4 u = tile.Value(entry);
      const float* key = unit.Key(entry) + row;
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        AddScaled(key[kQuadLanes * i], u, s[i]);
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

  // Scales what was read of the state and adds what the entries of the block bring.
  __device__ void ReadEntries(const DecodeUnit<Shape>& unit, const DecodeTile<Shape>& tile,
                              float (&query)[kQuad], float (&erase)[kQuad]) const {
#pragma unroll
    for (int c = 0; c < kQuad; ++c) {
      query[c] *= scale_;
      erase[c] *= scale_;
    }
    for (int e = quad_lane_; e < unit.entries; e += kQuadLanes) {
      const float4 u = tile.Value(unit.Entry(unit.pending + e));
      AddScaled(unit.QueryWeights()[e], u, query);
      if (T::kErases) {
        AddScaled(unit.EraseWeights()[e], u, erase);
      }
    }
    __syncwarp();
  }

  // Two lanes have a column; one writes it.
  __device__ void Append(const DecodeUnit<Shape>& unit, const DecodeTile<Shape>& tile, float query,
                         float erase) const {
    const int offset = kQuad * tile.quad + quad_lane_ / 2;
    float u = reinterpret_cast<const float*>(tile.data +
                                             StageLayout<Shape>::InputValue(shared_.ring))[offset];
    if (T::kErases) {
      u = unit.Beta() * (u - erase);
    }
    if (tile.own && quad_lane_ % 2 == 0) {
      const int first = tile.column - kQuad * tile.quad;  // of the tile
      out_[first + offset] = fmaf(unit.QueryWeights()[unit.entries], u, query);
      values_[first * shared_.ring + entry_ * tile.width + offset] = u;
    }
  }

  const AdvanceCall& call_;
  const DecodePlan& plan_;
  const DecodeShared<Shape>& shared_;
  const int warp_;
  const int lane_;
  const int quad_lane_;
  const int quad_;  // the lane's, in a tile
  RingCursor stage_, buffer_;
  // Of the unit.
  float* out_ = nullptr;
  float* values_ = nullptr;
  State* state_ = nullptr;
  HealthPart* parts_ = nullptr;
  int entry_ = 0;
  bool store_ = false;
  float scale_ = 0;
  float query_[kRows], erase_[kRows];
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_CONSUMER_CUH_
