// What the products of few rows (matmul_few_rows.cu, matmul_tiles.cu) share: what comes before and
// after them in place of launches of their own. For these files.
#ifndef EVENFLOW_KERNELS_CUDA_FEW_ROWS_CUH_
#define EVENFLOW_KERNELS_CUDA_FEW_ROWS_CUH_

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/four.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/math/activations.h"
#include "kernels/math/head_norm.h"

namespace evenflow::few_rows {

inline constexpr int kWarps = 8;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kOutputs = 16;  // of a group

// What the kernel does, the pointers being the device's.
struct Call {
  MatMulArgs args;
  int rows;
  LeftFactors lacks;  // of x
  // Rows of W beside each other in a block: first, first + 1, ..., 8 of them, and as many from
  // `second` on.
  int first_step;
  int64_t second;
  int groups;     // of outputs, over which blocks go
  bool resident;  // a block keeps all of x
  // At most one: y is gate and up, and `out` act(gate) * up; or `out` is y times `weight`, and y's
  // squares are left, [row, group].
  bool activates, norms;
  Activation activation;
  Matrix out;
  const float* weight;
  LeftFactors leaves;

  // Whether each of several heads has a factor.
  __host__ __device__ bool by_heads() const { return lacks.heads > 1; }
};

// kWidth (1 or 4) adjacent ones of the kOutputs of a group and row, and what is known of them
// before their sums.
template <int kWidth>
struct Outputs {
  int row;
  int64_t column;  // of y, the first one
  bool real;
  float added[kWidth] = {};  // bias
  float old[kWidth] = {};    // what was there
  float weight[kWidth] = {};

  __device__ Outputs(const Call& call, int row, int group, int in_group)
      : row(row),
        column(int64_t{group} * call.first_step + in_group % 8 + (in_group < 8 ? 0 : call.second)),
        real(row < call.rows && group < call.groups && column < call.args.w.rows) {
    if (real && call.args.bias != nullptr) {
      Load(call.args.bias, added);
    }
    if (real && call.norms) {
      Load(call.weight, weight);
    }
  }

  __device__ void LoadOld(const MatMulArgs& args) {
    if (real && args.add) {
      const int64_t at = row * args.y.stride + column;
      if constexpr (kWidth == 4) {
        Copy(LoadFour(args.y, at), old);
      } else {
        old[0] = evenflow::Load(args.y.data, args.y.dtype, at);
      }
    }
  }

  // Sums become values.
  __device__ void Find(float (&sums)[kWidth], float factor) const {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      sums[i] = real ? fmaf(sums[i], factor, added[i] + old[i]) : 0.0f;
    }
  }

  __device__ void StoreValues(const Call& call, const float (&values)[kWidth]) const {
    if (real) {
      Store(call.args.y, values);
      if (call.norms) {
        float weighted[kWidth];
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          weighted[i] = values[i] * weight[i];
        }
        Store(call.out, weighted);
      }
    }
  }

  // Where they are gates.
  __device__ void StoreActivated(const Call& call, float (&gates)[kWidth],
                                 const float (&ups)[kWidth]) const {
    if (real) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        gates[i] = Activate(call.activation, gates[i]) * ups[i];
      }
      Store(call.out, gates);
    }
  }

 private:
  __device__ void Load(const float* from, float (&to)[kWidth]) const {
    if constexpr (kWidth == 4) {
      Copy(LoadFour(from + column), to);
    } else {
      to[0] = from[column];
    }
  }

  __device__ static void Copy(const Four& from, float (&to)[kWidth]) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      to[i] = from.x[i];
    }
  }

  __device__ void Store(const Matrix& to, const float (&values)[kWidth]) const {
    const int64_t at = row * to.stride + column;
    if constexpr (kWidth == 4) {
      StoreFour(to, at, {{values[0], values[1], values[2], values[3]}});
    } else {
      evenflow::Store(to.data, to.dtype, at, values[0]);
    }
  }
};

// Those of all outputs of a group and row.
__device__ inline void StoreSquares(const Call& call, int row, int group, float squares) {
  if (row < call.rows && group < call.groups) {
    call.leaves.squares[row * call.groups + group] = squares;
  }
}

// The product of at most kMaxTileRows rows (matmul_tiles.cu).
void LaunchTiles(const Call& call, cudaStream_t stream);

}  // namespace evenflow::few_rows

#endif  // EVENFLOW_KERNELS_CUDA_FEW_ROWS_CUH_
