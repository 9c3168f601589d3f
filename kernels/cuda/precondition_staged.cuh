// A of VLA's stage in shared memory, where a block copies it in bulk as it begins: folded there
// once however many tokens read it, and stored from there. A warp has every kStagedGroups-th batch
// of rows. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PRECONDITION_STAGED_CUH_
#define EVENFLOW_KERNELS_CUDA_PRECONDITION_STAGED_CUH_

#include "kernels/cuda/precondition_reads.cuh"

namespace evenflow {

// kDim <= 128, so that a lane's 4 columns are all that there are.
template <int kDim>
class StagedPlane {
 public:
  using View = PreconditionView<kDim>;

  // Reads only what no other kernel of a step writes. All threads, which must meet before they
  // Read.
  __device__ explicit StagedPlane(const View& view)
      : view_(view),
        call_(view.call),
        reads_(view),
        column_(kQuad * view.lane),
        stored_{view.row.position == 0 ? 0 : *view.StoredWord()},
        folded_(stored_.before) {
    if (view.warp == 0 && view.row.position > 0) {
      if (view.lane == 0) {
        view.Staged().Init();
        CopyBarrier::FenceInit();
      }
      __syncwarp();
      view.Staged().Copy(view.StagedRow(0), view.PlaneRow(0), kDim * kDim * int{sizeof(float)});
      view.Staged().ThatIsAll();
    }
  }

  // A before token 0. All threads, which must meet before they Read.
  __device__ void Begin() const {
    view_.ForPlane(
        [&](int i, float initial) { view_.StagedRow(0)[i] = view_.PlaneRow(0)[i] = initial; });
  }

  // For the token at `p`, Y(read) becomes A x / m with the `rows` rows before it, for x = p
  // e_direction (unless that is < 0), X(0) and X(1). Stores what may be stored with the token. All
  // threads, with X in place.
  __device__ void Read(int64_t p, int rows, int direction) {
    const int64_t block = call_.window.Block(p);
    const int64_t end = call_.window.Stored(p);
    Columns columns{column_};
    AddRows(view_.RowsFrom(block), rows, direction, &columns);
    if (view_.row.position > 0) {
      view_.Staged().Wait(0);
    }
    if (end > stored_.tokens) {
      if (end < folded_) {
        Reload();
      }
      Fold(end);
      Store();
      stored_.tokens = end;
    }
    Fold(block);
    ForBatches([&](int first) {
      PlaneBatch batch;
      Load(first, batch);
      reads_.AddBatch(first, direction, batch, &columns);
    });
    reads_.Keep(view_.warp, columns);
    __syncthreads();
    reads_.SumGroups();
    __syncthreads();
  }

  // Tokens that are in the stored A.
  __device__ int64_t stored() const { return stored_.tokens; }

  __device__ void Finish() { stored_.Finish(view_); }

 private:
  static constexpr int kBatch = PlaneBatch::kRows;
  static constexpr int kRows = 8;  // rows r that are folded at a time: they lie where Y does
  static constexpr int kOwnRows = kRows / kStagedGroups;
  static_assert(kRows % kStagedGroups == 0 && kRows <= kPreconditionReads * kStagedGroups);
  using Rows = typename View::Rows;
  using Columns = typename View::Columns;

  // The warp's batches, by their first rows.
  template <class Do>
  __device__ void ForBatches(const Do& run) const {
#pragma unroll 1
    for (int first = kBatch * view_.warp; first < kDim; first += kBatch * kStagedGroups) {
      run(first);
    }
  }

  __device__ void Load(int first, PlaneBatch& batch) const {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      view_.LoadFour(view_.StagedRow(first + i), column_, batch.a[i]);
    }
  }

  // What is stored, again.
  __device__ void Reload() {
    ForBatches([&](int first) {
      PlaneBatch batch;
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        view_.LoadFour(view_.PlaneRow(first + i), column_, batch.a[i]);
        Put(batch.a[i], view_.StagedRow(first + i));
      }
    });
    folded_ = stored_.tokens;
  }

  __device__ void Put(const float (&four)[kQuad], float* row) const {
    if (column_ < kDim) {
      StoreQuad(make_float4(four[0], four[1], four[2], four[3]), row + column_);
    }
  }

  __device__ void Store() {
    stored_.part = {};
    ForBatches([&](int first) {
      PlaneBatch batch;
      Load(first, batch);
      PlaneBatch::ForEach([&](int i, int n) { stored_.part.Observe(batch.a[i][n]); });
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        Put(batch.a[i], view_.PlaneRow(first + i));
      }
    });
  }

  // Takes A through the blocks of tokens [folded_, end). The products commute, so A stays symmetric
  // to the bit. All threads.
  __device__ void Fold(int64_t end) {
    for (; folded_ < end; folded_ += call_.window.commit) {
      const float nudge = view_.v3() ? Nudges(folded_, folded_ + call_.window.commit) : 0;
      const Rows rows = view_.RowsFrom(folded_);
      float own[kOwnRows][kQuad];
      LoadRows(rows, 0, own);
      for (int begin = 0; begin < call_.BlockRows(); begin += kRows) {
        __syncthreads();  // the rows before these have been read
#pragma unroll
        for (int n = 0; n < kOwnRows; ++n) {
          Put(own[n], view_.Y(kOwnRows * view_.warp + n));
        }
        __syncthreads();
        LoadRows(rows, begin + kRows, own);
        FoldRows(begin == 0 ? nudge : 0, begin + kRows < call_.BlockRows() ? 1 : call_.fold_growth);
      }
    }
  }

  // Of the kRows rows from `begin` on those that the warp brings; zeros behind the last.
  __device__ void LoadRows(const Rows& rows, int begin, float (&own)[kOwnRows][kQuad]) const {
#pragma unroll
    for (int n = 0; n < kOwnRows; ++n) {
      const int r = begin + kOwnRows * view_.warp + n;
      view_.LoadFour(rows.At(Least(r, call_.BlockRows() - 1)),
                     r < call_.BlockRows() ? column_ : kDim, own[n]);
    }
  }

  // The kRows rows in Y's place, after a nudge of A's diagonal and before its growth.
  __device__ void FoldRows(float nudge, float growth) const {
    float columns[kRows][kQuad];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      view_.LoadFour(view_.Y(r), column_, columns[r]);
    }
    ForBatches([&](int first) {
      PlaneBatch batch;
      Load(first, batch);
      batch.Nudge(first, column_, nudge);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < kBatch; i += kQuad) {
          float of_rows[kQuad];
          view_.LoadFour(view_.Y(r), first + i, of_rows);
          batch.Take(i, of_rows, columns[r]);
        }
      }
      batch.Grow(growth);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        Put(batch.a[i], view_.StagedRow(first + i));
      }
    });
  }

  // Less what the rows r of the block bring: pairs of them, the next of the warp's on their way.
  __device__ void AddRows(const Rows& rows, int count, int direction, Columns* columns) const {
    float x[2][kQuad], next[2][kQuad];
    view_.LoadFour(view_.X(0), column_, x[0]);
    view_.LoadFour(view_.X(1), column_, x[1]);
    const auto load = [&](int r) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        view_.LoadFour(rows.At(r + n), r + n < count ? column_ : kDim, next[n]);
      }
    };
    load(2 * view_.warp);
#pragma unroll 1
    for (int r = 2 * view_.warp; r < count; r += 2 * kStagedGroups) {
      float row[2][kQuad], sums[4] = {};
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          sums[n] = fmaf(next[n / 2][i], x[n % 2][i], sums[n]);
        }
        row[0][i] = next[0][i], row[1][i] = next[1][i];
      }
      load(r + 2 * kStagedGroups);
      const float sum = SumWarpOfFour(sums);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        if (direction >= 0) {
          const float low = direction % 2 == 0 ? row[n][0] : row[n][1];
          const float high = direction % 2 == 0 ? row[n][2] : row[n][3];
          const float own = direction % kQuad < 2 ? low : high;
          columns->Add(PreconditionReads<kDim>::kLeak,
                       -call_.leak * __shfl_sync(kWarp, own, direction / kQuad), row[n]);
        }
        columns->Add(1, -__shfl_sync(kWarp, sum, 16 * n), row[n]);
        columns->Add(2, -__shfl_sync(kWarp, sum, 16 * n + 8), row[n]);
      }
    }
  }

  const View& view_;
  const PreconditionCall& call_;
  const PreconditionReads<kDim> reads_;
  const int column_;  // the lane's first; behind the end if kDim < 128
  StoredPlane stored_;
  int64_t folded_;  // tokens that are in the A in shared memory
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PRECONDITION_STAGED_CUH_
