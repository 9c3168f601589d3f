// What the product of a few rows (matmul_few_rows.cu) is made of: its pieces of W and x, and the
// factors of norms. For that file.
#ifndef EVENFLOW_KERNELS_CUDA_FEW_ROWS_CUH_
#define EVENFLOW_KERNELS_CUDA_FEW_ROWS_CUH_

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/math/head_norm.h"

namespace evenflow::few_rows {

inline constexpr int kWarps = 8;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kOutputs = 16;  // rows of W of a block, those of an mma's first operand
inline constexpr int kTileRows = 8;  // rows of x of an mma
inline constexpr int kPiece = 8;     // values of 16 bytes
inline constexpr int kStretch =
    32;  // columns that a warp takes at once: 4 lanes a row, a piece each
inline constexpr int kUnroll = 8;
inline constexpr int64_t kChunk = kUnroll * kStretch;
static_assert(kMaxFewRows * kOutputs <= kThreads);  // a thread has at most one output

// Weights are read once: they need not stay in the first cache.
__device__ inline uint4 LoadWeights(const __nv_bfloat16* data) {
  uint4 piece;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(piece.x), "=r"(piece.y), "=r"(piece.z), "=r"(piece.w)
               : "l"(data));
  return piece;
}

// sums [16, 8] += a [16, 16] b [16, 8]
__device__ inline void Multiply(uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                uint32_t b1, float* sums) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

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

// What a block's warps hand to each other.
template <int kTiles>
struct Partial {
  float sums[kWarps][kTiles * kTileRows][kOutputs + 1];

  __device__ float Sum(int r, int output) const {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      sum += sums[warp][r][output];
    }
    return sum;
  }
};

// Columns of a warp.
__host__ __device__ inline int64_t ShareOf(int64_t inputs) {
  return (inputs + kWarps * kStretch - 1) / (kWarps * kStretch) * kStretch;
}

// What each row is multiplied by. A warp finds it for the rows warp, warp + kWarps, ...: their
// squares are asked for before the product and added up after it.
template <int kTiles>
class Factors {
 public:
  static_assert(kTileRows == kWarps);

  __device__ void Load(const Call& call) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        ahead_[tile][j] = Square(call, Row(tile), j);
      }
    }
  }

  __device__ void Find(const Call& call, float* factors) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        sum += ahead_[tile][j];
      }
      for (int j = kAhead; 32 * j < call.square_parts; ++j) {
        sum += Square(call, Row(tile), j);
      }
      sum = WarpSum(sum);
      if (threadIdx.x % 32 == 0) {
        factors[Row(tile)] = call.squares == nullptr
                                 ? 1.0f
                                 : InverseRms(sum, static_cast<int>(call.args.w.cols), call.eps);
      }
    }
  }

 private:
  static constexpr int kAhead = 4;  // squares of a lane and row

  __device__ static int Row(int tile) {
    return static_cast<int>(threadIdx.x / 32) + tile * kWarps;
  }

  // The lane's j-th of a row.
  __device__ static float Square(const Call& call, int row, int j) {
    const int i = static_cast<int>(threadIdx.x % 32) + 32 * j;
    return row < call.rows && i < call.square_parts ? call.squares[row * call.square_parts + i]
                                                    : 0.0f;
  }

  float ahead_[kTiles][kAhead];
};

// The warp's part of W, piece by piece: the chunks of a group of outputs, then those of the block's
// next one.
class Weights {
 public:
  __device__ Weights(const Call& call, int64_t begin, int64_t end)
      : call_(call),
        begin_(begin),
        end_(static_cast<int>(end - begin)),
        lane_row_(static_cast<int>(threadIdx.x % 32) / 4),
        lane_column_(static_cast<int>(threadIdx.x % 4) * kPiece),
        group_(static_cast<int>(blockIdx.x)) {
    Find();
  }

  // Its stretch u.
  __device__ void Load(int u, uint4* upper, uint4* lower) const {
    const int at = from_ + u * kStretch + lane_column_;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    *upper = at < end_ && has_upper_ ? LoadWeights(upper_ + at) : zero;
    *lower = at < end_ && has_lower_ ? LoadWeights(lower_ + at) : zero;
  }

  // On to the chunk after it, of `chunks` of a group.
  __device__ void Next(int chunks) {
    from_ += kUnroll * kStretch;
    if (from_ == chunks * kUnroll * kStretch) {
      from_ = 0;
      group_ += static_cast<int>(gridDim.x);
      Find();
    }
  }

 private:
  __device__ void Find() {
    const MatMulArgs& args = call_.args;
    const int64_t first = int64_t{group_} * call_.first_step + lane_row_;
    has_upper_ = group_ < call_.groups && first < args.w.rows;
    has_lower_ = group_ < call_.groups && first + call_.second < args.w.rows;
    upper_ = static_cast<const __nv_bfloat16*>(args.w.data) + first * args.w.cols + begin_;
    lower_ = upper_ + call_.second * args.w.cols;
  }

  const Call& call_;
  const int64_t begin_;
  const int end_, lane_row_, lane_column_;
  int group_, from_ = 0;
  bool has_upper_, has_lower_;
  const __nv_bfloat16* upper_;
  const __nv_bfloat16* lower_;
};

}  // namespace evenflow::few_rows

#endif  // EVENFLOW_KERNELS_CUDA_FEW_ROWS_CUH_
