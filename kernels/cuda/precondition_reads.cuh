// What a token reads of VLA's A, as the columns that a lane has add it up, and what is done to A's
// rows wherever they lie. For .cu files.
//
// A is symmetric, so A x is the sum of its rows, each times its element of x: a warp adds up what a
// batch of rows after the other brings to 4 columns a lane, for all that a token reads at once, and
// less what the rows r of the block of tokens bring. Groups of rows are added in the end.
#ifndef EVENFLOW_KERNELS_CUDA_PRECONDITION_READS_CUH_
#define EVENFLOW_KERNELS_CUDA_PRECONDITION_READS_CUH_

#include "kernels/cuda/precondition_view.cuh"
#include "kernels/math/precondition.h"

namespace evenflow {

// Rows of A that a warp has at a time, in 4 columns a lane.
struct PlaneBatch {
  static constexpr int kRows = 8;

  float a[kRows][kQuad];

  // Of A's diagonal, rows from `row` on and columns from `column` on.
  __device__ void Nudge(int row, int column, float nudge) {
    ForEach([&](int i, int n) { a[i][n] += row + i == column + n ? nudge : 0; });
  }

  // a <- a - r r^T, given 4 of r's elements for 4 of the rows from the i-th on, and the columns'.
  __device__ void Take(int i, const float (&of_rows)[kQuad], const float (&of_columns)[kQuad]) {
#pragma unroll
    for (int m = 0; m < kQuad; ++m) {
#pragma unroll
      for (int n = 0; n < kQuad; ++n) {
        a[i + m][n] = fmaf(-of_rows[m], of_columns[n], a[i + m][n]);
      }
    }
  }

  __device__ void Grow(float growth) {
    ForEach([&](int i, int n) { a[i][n] *= growth; });
  }

  // Calls run(row, column) for all of it.
  template <class Do>
  __device__ static void ForEach(const Do& run) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int n = 0; n < kQuad; ++n) {
        run(i, n);
      }
    }
  }
};

// How much of A is stored, and the health of what was stored last.
struct StoredPlane {
  const int64_t before;  // tokens, when the kernel began
  int64_t tokens = before;
  HealthPart part;

  // After the last token: says so. All threads of a block, which have met since the last read.
  template <int kDim>
  __device__ void Finish(const PreconditionView<kDim>& view) {
    if (view.thread == 0) {
      *view.StoredWord() = tokens;
    }
    if (tokens == before) {
      return;
    }
    auto* const parts = reinterpret_cast<HealthPart*>(view.Y(0));
    part.SumLanes(32);
    if (view.lane == 0) {
      parts[view.warp] = part;
    }
    __syncthreads();
    if (view.warp == 0) {
      part = view.lane < view.warps ? parts[view.lane] : HealthPart{};
      AddHealth(part, view.call.health + blockIdx.y);
    }
  }
};

template <int kDim>
class PreconditionReads {
 public:
  using View = PreconditionView<kDim>;
  using Columns = typename View::Columns;
  static constexpr int kLeak = 0;  // that of the leak; then with X(0) and X(1)

  __device__ explicit PreconditionReads(const View& view) : view_(view), call_(view.call) {}

  __device__ void AddBatch(int first, int direction, const PlaneBatch& batch,
                           Columns* columns) const {
#pragma unroll
    for (int i = 0; i < PlaneBatch::kRows; i += kQuad) {
      const float4 x0 = *reinterpret_cast<const float4*>(view_.X(0) + first + i);
      const float4 x1 = *reinterpret_cast<const float4*>(view_.X(1) + first + i);
      const float x[2][kQuad] = {{x0.x, x0.y, x0.z, x0.w}, {x1.x, x1.y, x1.z, x1.w}};
#pragma unroll
      for (int m = 0; m < kQuad; ++m) {
        columns->Add(1, x[0][m], batch.a[i + m]);
        columns->Add(2, x[1][m], batch.a[i + m]);
        if (first + i + m == direction) {
          columns->Add(kLeak, call_.leak, batch.a[i + m]);
        }
      }
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
        float sum = view_.Y(read)[i];
        for (int group = 1; group < call_.groups; ++group) {
          sum += view_.Y(kReads * group + read)[i];
        }
        view_.Y(read)[i] = sum;
      }
    });
  }

 private:
  static constexpr int kReads = kPreconditionReads;

  const View& view_;
  const PreconditionCall& call_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PRECONDITION_READS_CUH_
