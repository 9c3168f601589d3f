// A of VLA's stage, by the block that has its head: folds, stores and reads it. For .cu files.
//
// A is symmetric, so A x is the sum of its rows, each times its element of x: a warp adds up what a
// batch of rows after the other brings to 4 columns a lane, for all that a token reads at once, and
// less what the rows r of the block of tokens bring.
#ifndef EVENFLOW_KERNELS_CUDA_PRECONDITION_PLANE_CUH_
#define EVENFLOW_KERNELS_CUDA_PRECONDITION_PLANE_CUH_

#include "kernels/cuda/precondition_view.cuh"
#include "kernels/math/precondition.h"

namespace evenflow {

template <int kDim>
class PreconditionPlane {
 public:
  using View = PreconditionView<kDim>;
  static constexpr int kLeak = 0;  // of the reads: that of the leak; then with X(0) and X(1)

  // Reads only what no other kernel of a step writes.
  __device__ explicit PreconditionPlane(const View& view)
      : view_(view),
        call_(view.call),
        before_(view.row.position == 0 ? 0 : *view.StoredWord()),
        stored_(before_) {}

  // For the token at `p`, Y(read) becomes A x / m with the `rows` rows before it, for x = p
  // e_direction (unless that is < 0), X(0) and X(1). Stores what may be stored with the token. All
  // threads, with X in place.
  __device__ void Read(int64_t p, int rows, int direction) {
    const int64_t block = call_.window.Block(p);
    const int64_t end = call_.window.Stored(p);
    if (end > stored_ && end < block) {
      Commit(end);
    }
    const bool stores = end > stored_;
    part_ = stores ? HealthPart{} : part_;
    for (int group = view_.warp; group < call_.groups; group += view_.warps) {
      Weigh(view_.RowsFrom(block), rows, group);
      for (int column = 0; column < view_.dim; column += 32 * kQuad) {
        Columns columns{column + kQuad * view_.lane};
        AddRows(view_.RowsFrom(block), rows, direction, group, &columns);
#pragma unroll 1
        for (int first = kBatch * group; first < view_.dim; first += kBatch * call_.groups) {
          Batch a;
          Load(first, columns.first, a);
          Fold(first, columns.first, block, a);
          if (stores) {
            Store(first, columns.first, a);
          }
          AddBatch(first, direction, a, &columns);
        }
        Keep(group, columns);
      }
    }
    stored_ = stores ? end : stored_;
    __syncthreads();
    SumGroups();
    __syncthreads();
  }

  // Tokens that are in the stored A.
  __device__ int64_t stored() const {
    return stored_;
  }

  // After the last token: says how much is stored.
  __device__ void Finish() const {
    if (view_.thread == 0) {
      *view_.StoredWord() = stored_;
    }
    if (stored_ > before_) {
      AddHealth(part_, call_.health + blockIdx.y);
    }
  }

 private:
  static constexpr int kReads = kPreconditionReads;
  static constexpr int kBatch = 8;  // rows of A that a warp has at a time
  using Batch = float[kBatch][kQuad];
  using Rows = typename View::Rows;
  using Columns = typename View::Columns;

  // Rows [first, first + kBatch) in 4 columns a lane; zeros behind the ends.
  __device__ void Load(int first, int column, Batch& a) const {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (kDim > 0 || first + i < view_.dim) {
        view_.template LoadFour<true>(view_.PlaneRow(first + i), column, a[i]);
      } else {
        a[i][0] = a[i][1] = a[i][2] = a[i][3] = 0;
      }
    }
  }

  __device__ void Store(int first, int column, const Batch& a) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      float* const row = view_.PlaneRow(first + i) + column;
#pragma unroll
      for (int n = 0; n < kQuad; ++n) {
        if (first + i < view_.dim && column + n < view_.dim) {
          part_.Observe(a[i][n]);
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
  __device__ void Fold(int first, int column, int64_t end, Batch& a) const {
    for (int64_t block = stored_; block < end; block += call_.window.commit) {
      const float nudge = view_.v3() ? Nudges(block, block + call_.window.commit) : 0;
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
#pragma unroll
        for (int n = 0; n < kQuad; ++n) {
          a[i][n] += first + i == column + n ? nudge : 0;
        }
      }
      const Rows rows = view_.RowsFrom(block);
#pragma unroll 2
      for (int r = 0; r < call_.BlockRows(); ++r) {
        float columns[kQuad];
        view_.LoadFour(rows.At(r), column, columns);
#pragma unroll
        for (int i = 0; i < kBatch; i += kQuad) {
          float of_rows[kQuad];
          view_.LoadFour(rows.At(r), first + i, of_rows);
#pragma unroll
          for (int m = 0; m < kQuad; ++m) {
#pragma unroll
            for (int n = 0; n < kQuad; ++n) {
              a[i + m][n] = fmaf(-of_rows[m], columns[n], a[i + m][n]);
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
#pragma unroll
        for (int n = 0; n < kQuad; ++n) {
          a[i][n] *= call_.fold_growth;
        }
      }
    }
  }

  // Stores A as of `end`, which is before the block that is being read.
  __device__ void Commit(int64_t end) {
    part_ = {};
    for (int first = kBatch * view_.warp; first < view_.dim; first += kBatch * view_.warps) {
      for (int column = kQuad * view_.lane; column < view_.dim; column += 32 * kQuad) {
        Batch a;
        Load(first, column, a);
        Fold(first, column, end, a);
        Store(first, column, a);
      }
    }
    stored_ = end;
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

  __device__ void Keep(int group, const Columns& columns) const {
    if (columns.first < view_.dim) {
#pragma unroll
      for (int read = 0; read < kReads; ++read) {
        const float(&sum)[kQuad] = columns.sums[read];
        StoreQuad(make_float4(sum[0], sum[1], sum[2], sum[3]),
                  view_.Y(kReads * group + read) + columns.first);
      }
    }
  }

  __device__ void SumGroups() const {
    view_.ForChannels([&](int i) {
      for (int read = 0; read < kReads; ++read) {
        for (int group = 1; group < call_.groups; ++group) {
          view_.Y(read)[i] += view_.Y(kReads * group + read)[i];
        }
      }
    });
  }

  __device__ void AddBatch(int first, int direction, const Batch& a, Columns* columns) const {
#pragma unroll
    for (int i = 0; i < kBatch; i += kQuad) {
      const float4 x0 = *reinterpret_cast<const float4*>(view_.X(0) + first + i);
      const float4 x1 = *reinterpret_cast<const float4*>(view_.X(1) + first + i);
      const float x[2][kQuad] = {{x0.x, x0.y, x0.z, x0.w}, {x1.x, x1.y, x1.z, x1.w}};
#pragma unroll
      for (int m = 0; m < kQuad; ++m) {
        columns->Add(1, x[0][m], a[i + m]);
        columns->Add(2, x[1][m], a[i + m]);
        if (first + i + m == direction) {
          columns->Add(kLeak, call_.leak, a[i + m]);
        }
      }
    }
  }

  const View& view_;
  const PreconditionCall& call_;
  const int64_t before_;
  int64_t stored_;   // tokens
  HealthPart part_;  // of what was stored last
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PRECONDITION_PLANE_CUH_
