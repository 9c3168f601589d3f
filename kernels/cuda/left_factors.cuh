// The factors of rows and heads that an operation before leaves to a product (LeftFactors), found
// from their squares. For the products of few rows (matmul_few_rows.cu, matmul_tiles.cu).
#ifndef EVENFLOW_KERNELS_CUDA_LEFT_FACTORS_CUH_
#define EVENFLOW_KERNELS_CUDA_LEFT_FACTORS_CUH_

#include "kernels/cuda/few_rows.cuh"

namespace evenflow::few_rows {

// What a head of a row is multiplied by; 0 where there is none.
__device__ inline float HeadFactor(const Call& call, int row, int head) {
  constexpr int kAhead = 8;
  const LeftFactors& left = call.lacks;
  if (row >= call.rows || head >= left.heads) {
    return 0;
  }
  const float* const squares = left.squares + (row * left.heads + head) * left.parts;
  float sum = 0;
  for (int first = 0; first < left.parts; first += kAhead) {
    float ahead[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      ahead[i] = first + i < left.parts ? squares[first + i] : 0.0f;
    }
#pragma unroll
    for (const float square : ahead) {
      sum += square;
    }
  }
  return InverseRms(sum, left.dim, left.eps);
}

// The factors of heads for the columns from `begin` on, for each kLeftColumns of a warp's
// `columns`: [columns / kLeftColumns, kRows] in shared memory. A warp.
template <int kRows>
__device__ void FindHeadFactors(const Call& call, int begin, int columns, float* factors) {
  const int dim = call.lacks.dim;
  const int first = begin / dim;
  const int heads = (begin + columns - 1) / dim - first + 1;
  for (int i = static_cast<int>(threadIdx.x % 32); i < heads * kRows; i += 32) {
    const int row = i % kRows, head = first + i / kRows;
    const float factor = HeadFactor(call, row, head);
    const int end = min((head + 1) * dim - begin, columns);
    for (int column = max(head * dim - begin, 0); column < end; column += kLeftColumns) {
      factors[column / kLeftColumns * kRows + row] = factor;
    }
  }
  __syncwarp();
}

// sums += parts, times the factors of two adjacent rows of each tile of rows.
template <int kTileRows, int kTiles>
__device__ void AddWeighted(const float (&parts)[kTiles][4], const float* factors,
                            float (&sums)[kTiles][4]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const float2 two = *reinterpret_cast<const float2*>(factors + tile * kTileRows);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[tile][i] = fmaf(parts[tile][i], i % 2 == 0 ? two.x : two.y, sums[tile][i]);
    }
  }
}

// What each of kRows rows is multiplied by, where it is not by heads: squares are asked for before
// there is time to wait for them, and added up after it, by the block's first kThreads threads,
// always as by a warp a row.
template <int kRows>
class Factors {
 public:
  __device__ void Load(const Call& call) {
    if (Lacks(call)) {
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
    if (Lacks(call)) {
      float sums[kSums] = {};
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          sums[i] += ahead_[i][j];
        }
      }
      for (int j = kAhead; 32 * j < call.lacks.parts; ++j) {
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
      factor = InverseRms(sums[0], call.lacks.dim, call.lacks.eps);
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

  __device__ static bool Lacks(const Call& call) {
    return call.lacks.data != nullptr && !call.by_heads();
  }

  __device__ static int Row() {
    return static_cast<int>(threadIdx.x) / kLanes;
  }

  // The j-th of the lane's i-th sum.
  __device__ static float Square(const Call& call, int i, int j) {
    const int at = static_cast<int>(threadIdx.x) % kLanes + i * kLanes + 32 * j;
    const LeftFactors& left = call.lacks;
    return Row() < call.rows && at < left.parts ? left.squares[Row() * left.parts + at] : 0.0f;
  }

  float ahead_[kSums][kAhead] = {};
};

}  // namespace evenflow::few_rows

#endif  // EVENFLOW_KERNELS_CUDA_LEFT_FACTORS_CUH_
