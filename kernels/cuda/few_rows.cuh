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
  // Of x, where it lacks the factor of its norm: squares [row, square_parts].
  const float* squares;
  int square_parts;
  float eps;
  // Rows of W beside each other in a block: first, first + 1, ..., 8 of them, and as many from
  // `second` on.
  int first_step;
  int64_t second;
  int groups;     // of outputs, over which blocks go
  bool resident;  // a block keeps all of x
  // At most one: y is gate and up, and `out` act(gate) * up; or `out` is y times `weight`, and y's
  // squares go to out_squares [row, block].
  bool activates, norms;
  Activation activation;
  Matrix out;
  const float* weight;
  float* out_squares;
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
    call.out_squares[row * call.groups + group] = squares;
  }
}

// The product of at most kMaxTileRows rows (matmul_tiles.cu).
void LaunchTiles(const Call& call, cudaStream_t stream);

// What each of kRows rows is multiplied by: squares are asked for before there is time to wait for
// them, and added up after it, by the block's first kThreads threads, always as by a warp a row.
template <int kRows>
class Factors {
 public:
  __device__ void Load(const Call& call) {
    if (call.squares != nullptr) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          ahead_[i][j] = Square(call, i, j);
        }
      }
    }
  }

  __device__ void Find(const Call& call, float* factors) const {
    float factor = 1;
    if (call.squares != nullptr) {
      float sums[kSums] = {};
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          sums[i] += ahead_[i][j];
        }
      }
      for (int j = kAhead; 32 * j < call.square_parts; ++j) {
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
          sums[i] += Square(call, i, j);
        }
      }
#pragma unroll
      for (int half = kSums / 2; half > 0; half /= 2) {
#pragma unroll
        for (int i = 0; i < half; ++i) {
          sums[i] += sums[i + half];
        }
      }
#pragma unroll
      for (int offset = kLanes / 2; offset > 0; offset /= 2) {
        sums[0] += __shfl_xor_sync(0xffffffffu, sums[0], offset);
      }
      factor = InverseRms(sums[0], static_cast<int>(call.args.w.cols), call.eps);
    }
    if (threadIdx.x % kLanes == 0) {
      factors[Row()] = factor;
    }
  }

 private:
  static constexpr int kLanes = kThreads / kRows;  // of a row
  static constexpr int kSums =
      32 / kLanes;                  // of a lane: each what a lane of a whole warp would have
  static constexpr int kAhead = 4;  // squares of such a sum

  __device__ static int Row() {
    return static_cast<int>(threadIdx.x) / kLanes;
  }

  // The j-th of the lane's i-th sum.
  __device__ static float Square(const Call& call, int i, int j) {
    const int at = static_cast<int>(threadIdx.x) % kLanes + i * kLanes + 32 * j;
    return Row() < call.rows && at < call.square_parts
               ? call.squares[Row() * call.square_parts + at]
               : 0.0f;
  }

  float ahead_[kSums][kAhead] = {};
};

}  // namespace evenflow::few_rows

#endif  // EVENFLOW_KERNELS_CUDA_FEW_ROWS_CUH_
