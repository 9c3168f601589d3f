// What the products of few rows (matmul_few_rows.cu, matmul_cluster.cu) are made of: pieces of W,
// outputs, the factors of norms. For these files.
#ifndef EVENFLOW_KERNELS_CUDA_FEW_ROWS_CUH_
#define EVENFLOW_KERNELS_CUDA_FEW_ROWS_CUH_

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/math/activations.h"
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
__device__ inline uint4 LoadWeights(const uint4* data) {
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

// One of the kOutputs of a group and row, and what is known of it before its sum.
struct Output {
  int row;
  int64_t column;  // of y
  bool real;
  float added = 0;  // bias
  float old = 0;    // what was there
  float weight = 0;

  __device__ Output(const Call& call, int row, int group, int in_group)
      : row(row),
        column(int64_t{group} * call.first_step + in_group % 8 + (in_group < 8 ? 0 : call.second)),
        real(row < call.rows && group < call.groups && column < call.args.w.rows) {
    if (real && call.args.bias != nullptr) {
      added = call.args.bias[column];
    }
    if (real && call.norms) {
      weight = call.weight[column];
    }
  }

  __device__ void LoadOld(const MatMulArgs& args) {
    if (real && args.add) {
      old = Load(args.y, row, column);
    }
  }

  __device__ float Value(float sum, float factor) const {
    return real ? fmaf(sum, factor, added + old) : 0.0f;
  }

  __device__ void StoreValue(const Call& call, float value) const {
    if (real) {
      Store(call.args.y, row, column, value);
      if (call.norms) {
        Store(call.out, row, column, value * weight);
      }
    }
  }

  // Where it is a gate.
  __device__ void StoreActivated(const Call& call, float gate, float up) const {
    if (real) {
      Store(call.out, row, column, Activate(call.activation, gate) * up);
    }
  }
};

// Those of all outputs of a group and row.
__device__ inline void StoreSquares(const Call& call, int row, int group, float squares) {
  if (row < call.rows && group < call.groups) {
    call.out_squares[row * call.groups + group] = squares;
  }
}

// The product of at most kMaxClusterRows rows (matmul_cluster.cu), and whether so many columns fit.
void LaunchInClusters(const Call& call, int clusters, cudaStream_t stream);
bool FitsCluster(int64_t inputs);

// Columns of a part of a sum: a warp has one here, a block of a cluster there.
__host__ __device__ inline int64_t ShareOf(int64_t inputs) {
  return (inputs + kWarps * kStretch - 1) / (kWarps * kStretch) * kStretch;
}

// What each row from `first` on is multiplied by. A warp finds it for the rows warp, warp + kWarps,
// ... of them: their squares are asked for before the product and added up after it.
template <int kTiles>
class Factors {
 public:
  static_assert(kTileRows == kWarps);

  __device__ explicit Factors(int first = 0) : first_(first) {}

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
      if (threadIdx.x % 32 == 0 && threadIdx.x < kThreads) {
        factors[Row(tile) - first_] =
            call.squares == nullptr ? 1.0f
                                    : InverseRms(sum, static_cast<int>(call.args.w.cols), call.eps);
      }
    }
  }

 private:
  static constexpr int kAhead = 4;  // squares of a lane and row

  __device__ int Row(int tile) const {
    return first_ + static_cast<int>(threadIdx.x / 32) + tile * kWarps;
  }

  // The lane's j-th of a row.
  __device__ static float Square(const Call& call, int row, int j) {
    const int i = static_cast<int>(threadIdx.x % 32) + 32 * j;
    return row < call.rows && i < call.square_parts ? call.squares[row * call.square_parts + i]
                                                    : 0.0f;
  }

  const int first_;
  float ahead_[kTiles][kAhead];
};

// The warp's part of W, piece by piece: the chunks of a group of outputs, then those of the next
// one; kAhead stretches are a chunk.
template <int kAhead>
class Weights {
 public:
  // Of group `group`, then of each group_step-th.
  __device__ Weights(const Call& call, int64_t begin, int64_t end, int group, int group_step)
      : call_(call),
        begin_(static_cast<int>(begin)),
        end_(static_cast<int>(end)),
        group_step_(group_step),
        group_(group) {
    Find();
  }

  // Its stretch u.
  __device__ void Load(int u, uint4* upper, uint4* lower) const {
    const uint4 zero = make_uint4(0, 0, 0, 0);
    const bool has = column_ + u * kStretch < end_;
    const auto* const pieces = static_cast<const uint4*>(call_.args.w.data);
    const uint32_t at = piece_ + static_cast<uint32_t>(u * (kStretch / kPiece));
    const auto apart = static_cast<uint32_t>(call_.second * call_.args.w.cols / kPiece);
    *upper = has && has_upper_ ? LoadWeights(pieces + at) : zero;
    *lower = has && has_lower_ ? LoadWeights(pieces + (at + apart)) : zero;
  }

  // On to the chunk after it, of `chunks` of a group.
  __device__ void Next(int chunks) {
    column_ += kAhead * kStretch;
    piece_ += kAhead * (kStretch / kPiece);
    if (column_ - begin_ >= chunks * kAhead * kStretch) {
      group_ += group_step_;
      Find();
    }
  }

 private:
  __device__ void Find() {
    const MatMulArgs& args = call_.args;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int64_t first = int64_t{group_} * call_.first_step + lane / 4;
    has_upper_ = group_ < call_.groups && first < args.w.rows;
    has_lower_ = group_ < call_.groups && first + call_.second < args.w.rows;
    column_ = begin_ + lane % 4 * kPiece;
    piece_ = static_cast<uint32_t>((first * args.w.cols + column_) / kPiece);
  }

  const Call& call_;
  const int begin_, end_, group_step_;
  int group_, column_;
  uint32_t piece_;  // of W, that of column_
  bool has_upper_, has_lower_;
};

}  // namespace evenflow::few_rows

#endif  // EVENFLOW_KERNELS_CUDA_FEW_ROWS_CUH_
