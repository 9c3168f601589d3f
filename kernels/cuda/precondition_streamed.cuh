// A of VLA's stage where shared memory has no room for it: by the block that has its head, which
// folds, stores and reads it batch by batch. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PRECONDITION_STREAMED_CUH_
#define EVENFLOW_KERNELS_CUDA_PRECONDITION_STREAMED_CUH_

#include "kernels/cuda/precondition_reads.cuh"

namespace evenflow {

template <int kDim>
class StreamedPlane {
 public:
  using View = PreconditionView<kDim>;

  // Reads only what no other kernel of a step writes.
  __device__ explicit StreamedPlane(const View& view)
      : view_(view),
        call_(view.call),
        reads_(view),
        stored_{view.row.position == 0 ? 0 : *view.StoredWord()} {}

  // A before token 0. All threads, which must meet before they Read.
  __device__ void Begin() const {
    view_.ForPlane([&](int i, float initial) { view_.PlaneRow(0)[i] = initial; });
  }

  // For the token at `p`, Y(read) becomes A x / m with the `rows` rows before it, for x = p
  // e_direction (unless that is < 0), X(0) and X(1). Stores what may be stored with the token. All
  // threads, with X in place.
  __device__ void Read(int64_t p, int rows, int direction) {
    const int64_t block = call_.window.Block(p);
    const int64_t end = call_.window.Stored(p);
    const Rows before = view_.RowsFrom(block);
    if (end > stored_.tokens && end < block) {
      Commit(end);
    }
    const bool stores = end > stored_.tokens;
    stored_.part = stores ? HealthPart{} : stored_.part;
    for (int group = view_.warp; group < call_.groups; group += view_.warps) {
      Weigh(before, rows, group);
      for (int column = 0; column < view_.dim; column += 32 * kQuad) {
        Columns columns{column + kQuad * view_.lane};
        AddRows(before, rows, direction, group, &columns);
#pragma unroll 1
        for (int first = kBatch * group; first < view_.dim; first += kBatch * call_.groups) {
          PlaneBatch batch;
          Load(first, columns.first, batch);
          Fold(first, columns.first, block, batch);
          if (stores) {
            Store(first, columns.first, batch);
          }
          reads_.AddBatch(first, direction, batch, &columns);
        }
        reads_.Keep(group, columns);
      }
    }
    stored_.tokens = stores ? end : stored_.tokens;
    __syncthreads();
    reads_.SumGroups();
    __syncthreads();
  }

  // Tokens that are in the stored A.
  __device__ int64_t stored() const {
    return stored_.tokens;
  }

  __device__ void Finish() {
    stored_.Finish(view_);
  }

 private:
  static constexpr int kBatch = PlaneBatch::kRows;
  static constexpr int kLeak = PreconditionReads<kDim>::kLeak;
  using Rows = typename View::Rows;
  using Columns = typename View::Columns;

  // Rows [first, first + kBatch) in 4 columns a lane; zeros behind the ends.
  __device__ void Load(int first, int column, PlaneBatch& batch) const {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (kDim > 0 || first + i < view_.dim) {
        view_.template LoadFour<true>(view_.PlaneRow(first + i), column, batch.a[i]);
      } else {
        batch.a[i][0] = batch.a[i][1] = batch.a[i][2] = batch.a[i][3] = 0;
      }
    }
  }

  __device__ void Store(int first, int column, const PlaneBatch& batch) {
    const auto& a = batch.a;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      float* const row = view_.PlaneRow(first + i) + column;
#pragma unroll
      for (int n = 0; n < kQuad; ++n) {
        if (first + i < view_.dim && column + n < view_.dim) {
          stored_.part.Observe(a[i][n]);
          if constexpr (kDim == 0) {
            row[n] = a[i][n];
          }
        }
      }
      if (kDim > 0 && column < kDim) {
        StoreQuad(make_float4(a[i][0], a[i][1], a[i][2], a[i][3]), row);
      }
    }
  }

  // Takes what is stored through the blocks of tokens [stored, end). The products commute, so A
  // stays symmetric to the bit.
  __device__ void Fold(int first, int column, int64_t end, PlaneBatch& batch) const {
    for (int64_t block = stored_.tokens; block < end; block += call_.window.commit) {
      const float nudge = view_.v3() ? Nudges(block, block + call_.window.commit) : 0;
      batch.Nudge(first, column, nudge);
      const Rows rows = view_.RowsFrom(block);
#pragma unroll 2
      for (int r = 0; r < call_.BlockRows(); ++r) {
        float columns[kQuad];
        view_.LoadFour(rows.At(r), column, columns);
#pragma unroll
        for (int i = 0; i < kBatch; i += kQuad) {
          float of_rows[kQuad];
          view_.LoadFour(rows.At(r), first + i, of_rows);
          batch.Take(i, of_rows, columns);
        }
      }
      batch.Grow(call_.fold_growth);
    }
  }

  // Stores A as of `end`, which is before the block that is being read.
  __device__ void Commit(int64_t end) {
    stored_.part = {};
    for (int first = kBatch * view_.warp; first < view_.dim; first += kBatch * view_.warps) {
      for (int column = kQuad * view_.lane; column < view_.dim; column += 32 * kQuad) {
        PlaneBatch batch;
        Load(first, column, batch);
        Fold(first, column, end, batch);
        Store(first, column, batch);
      }
    }
    stored_.tokens = end;
    __syncthreads();
  }

  // Weighs the group's rows r in what is read. A warp.
  __device__ void Weigh(const Rows& rows, int count, int group) const {
    for (int r = 2 * group; r < count; r += 2 * call_.groups) {
      const float* const row[2] = {rows.At(r), rows.At(Least(r + 1, count - 1))};
      float sums[4] = {};
      view_.ForLaneChannels([&](int i) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          sums[n] = fmaf(row[n / 2][i], view_.X(n % 2)[i], sums[n]);
        }
      });
      const float sum = SumWarpOfFour(sums);
      if (view_.lane % 8 == 0 && r + view_.lane / 16 < count) {
        view_.Weights(view_.lane / 8 % 2)[r + view_.lane / 16] = sum;
      }
    }
    __syncwarp();
  }

  __device__ void AddRows(const Rows& rows, int count, int direction, int group,
                          Columns* columns) const {
    for (int r = 2 * group; r < count; r += r % 2 == 0 ? 1 : 2 * call_.groups - 1) {
      const float* const row = rows.At(r);
      float four[kQuad];
      view_.LoadFour(row, columns->first, four);
      if (direction >= 0) {
        columns->Add(kLeak, -call_.leak * row[direction], four);
      }
      columns->Add(1, -view_.Weights(0)[r], four);
      columns->Add(2, -view_.Weights(1)[r], four);
    }
  }

  const View& view_;
  const PreconditionCall& call_;
  const PreconditionReads<kDim> reads_;
  StoredPlane stored_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PRECONDITION_STREAMED_CUH_
