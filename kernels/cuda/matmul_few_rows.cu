// y = x W^T for a few rows of bf16, bound by reading W, and what comes before and after it in place
// of launches of their own. A block takes 16 rows of W, its warps a part of the columns each. A
// lane reads 16 bytes at a time, of W as of x, and the tensor cores get them as they are: that the
// columns of a product are then in another order changes no sum, as it is the same for both. Up to
// kUnroll pieces of W are on their way before the step's inputs are there. The order of a sum
// depends on the number of columns alone, so a row's result not on the others.
//
// RMSNorm is one factor a row, which comes out of the product: (f x) W^T = f (x W^T). So the
// product that ends the residual stream's sum writes x times the norm's weight and each block's
// squares, and the product that reads it applies the factor.
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/math/activations.h"
#include "kernels/math/head_norm.h"

namespace evenflow {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kOutputs = 16;  // rows of W of a block, those of an mma's first operand
constexpr int kTileRows = 8;  // rows of x of an mma
constexpr int kPiece = 8;     // values of 16 bytes
constexpr int kStretch = 32;  // columns that a warp takes at once: 4 lanes a row, a piece each
constexpr int kUnroll = 8;
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

__device__ inline uint4 LoadPiece(const Matrix& matrix, int64_t row, int64_t column) {
  return *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(matrix.data) +
                                         row * matrix.stride + column);
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
  float factors[kTiles * kTileRows];

  __device__ float Sum(int r, int output) const {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      sum += sums[warp][r][output];
    }
    return sum * factors[r];
  }
};

// Columns of a warp.
__host__ __device__ inline int64_t ShareOf(int64_t inputs) {
  return (inputs + kWarps * kStretch - 1) / (kWarps * kStretch) * kStretch;
}

// By all warps: what each row is multiplied by.
__device__ void FindFactors(const Call& call, float* factors) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int r = static_cast<int>(threadIdx.x / 32); r < call.rows; r += kWarps) {
    float sum = 0;
    for (int i = lane; call.squares != nullptr && i < call.square_parts; i += 32) {
      sum += call.squares[r * call.square_parts + i];
    }
    sum = WarpSum(sum);
    if (lane == 0) {
      factors[r] = call.squares == nullptr
                       ? 1.0f
                       : InverseRms(sum, static_cast<int>(call.args.w.cols), call.eps);
    }
  }
}

// One output of a thread, and what is known of it before its sum.
struct Output {
  int row, in_block;
  int64_t column;  // of y
  bool real;
  float added = 0;  // bias, and what was there
  float weight = 0;

  __device__ explicit Output(const Call& call)
      : row(static_cast<int>(threadIdx.x) / kOutputs),
        in_block(static_cast<int>(threadIdx.x) % kOutputs),
        column(int64_t{blockIdx.x} * call.first_step + in_block % 8 +
               (in_block < 8 ? 0 : call.second)),
        real(row < call.rows && column < call.args.w.rows) {
    if (real && call.args.bias != nullptr) {
      added = call.args.bias[column];
    }
    if (real && call.norms) {
      weight = call.weight[column];
    }
  }

  __device__ void LoadOld(const MatMulArgs& args) {
    if (real && args.add) {
      added += Load(args.y, row, column);
    }
  }
};

template <int kTiles>
__device__ void Finish(const Call& call, const Output& output, const Partial<kTiles>& partial) {
  const MatMulArgs& args = call.args;
  const float sum = output.real ? partial.Sum(output.row, output.in_block) + output.added : 0.0f;
  if (call.activates) {  // the lane 8 further has up
    const float up = __shfl_down_sync(0xffffffffu, sum, 8);
    if (output.real && output.in_block < 8) {
      Store(call.out, output.row, output.column, Activate(call.activation, sum) * up);
    }
    return;
  }
  if (output.real) {
    Store(args.y, output.row, output.column, sum);
  }
  if (call.norms) {
    float squares = sum * sum;
#pragma unroll
    for (int offset = kOutputs / 2; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(0xffffffffu, squares, offset);
    }
    if (output.real) {
      Store(call.out, output.row, output.column, sum * output.weight);
    }
    if (output.in_block == 0 && output.row < call.rows) {
      call.out_squares[output.row * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x)] =
          squares;
    }
  }
}

template <int kTiles>
__global__ void __launch_bounds__(kThreads) FewRowsKernel(Call call) {
  __shared__ Partial<kTiles> partial;
  const MatMulArgs& args = call.args;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row = lane / 4;  // of W, and of x
  const int64_t inputs = args.w.cols;
  const int64_t first = int64_t{blockIdx.x} * call.first_step + row;
  const bool has_upper = first < args.w.rows, has_lower = first + call.second < args.w.rows;
  const auto* const w = static_cast<const __nv_bfloat16*>(args.w.data) + first * inputs;
  const auto* const w_lower = w + call.second * inputs;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  const int64_t share = ShareOf(inputs);
  const int64_t begin = warp * share;
  const int64_t end = min(begin + share, inputs);
  const int64_t column = lane % 4 * kPiece;

  uint4 upper[kUnroll], lower[kUnroll];
  const auto load = [&](int64_t from) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = from + u * kStretch + column;
      const bool inside = at < end;
      upper[u] = inside && has_upper ? LoadWeights(w + at) : zero;
      lower[u] = inside && has_lower ? LoadWeights(w_lower + at) : zero;
    }
  };
  load(begin);
  Output output(call);
  AwaitInputs();

  output.LoadOld(args);
  FindFactors(call, partial.factors);
  float sums[kTiles][4] = {};
  for (int64_t from = begin; from < end; from += kUnroll * kStretch) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = from + u * kStretch + column;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int r = tile * kTileRows + row;
        const uint4 values = at < end && r < call.rows ? LoadPiece(args.x, r, at) : zero;
        Multiply(upper[u].x, lower[u].x, upper[u].y, lower[u].y, values.x, values.y, sums[tile]);
        Multiply(upper[u].z, lower[u].z, upper[u].w, lower[u].w, values.z, values.w, sums[tile]);
      }
    }
    if (from + kUnroll * kStretch < end) {
      load(from + kUnroll * kStretch);
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int r = tile * kTileRows + lane % 4 * 2;
    partial.sums[warp][r][row] = sums[tile][0];
    partial.sums[warp][r + 1][row] = sums[tile][1];
    partial.sums[warp][r][row + 8] = sums[tile][2];
    partial.sums[warp][r + 1][row + 8] = sums[tile][3];
  }
  __syncthreads();
  Finish(call, output, partial);
}

bool IsWhole(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % sizeof(uint4) == 0 && stride % kPiece == 0;
}

}  // namespace

bool ServesFewRows(const MatMulArgs& args, int rows) {
  return rows <= kMaxFewRows && args.x.dtype == DType::kBF16 &&
         IsWhole(args.x.data, args.x.stride) && IsWhole(args.w.data, args.w.cols);
}

bool CanFollow(const MatMulArgs& args, const MlpActivationArgs& mlp) {
  return mlp.feeds_product && mlp.has_up && !args.add && args.y.data == mlp.gate_up.data &&
         args.w.rows == 2 * mlp.size && mlp.size % kTileRows == 0;
}

bool CanFollow(const MatMulArgs& args, const NormArgs& norm) {
  return norm.feeds_product && norm.tokens == args.tokens && args.add &&
         args.y.data == norm.x.data && args.w.rows == norm.dim && norm.kind == NormKind::kRms &&
         norm.weight != nullptr && norm.bias == nullptr && norm.y.dtype == DType::kBF16 &&
         norm.dim % kPiece == 0 && SquareParts(norm.dim) <= kMaxSquareParts;
}

int SquareParts(int64_t dim) {
  return static_cast<int>(CeilDiv(dim, kOutputs));
}

void CudaMatMulFewRows(const MatMulArgs& args, const Beside& beside, const FewRows& few) {
  Call call = {};
  call.args = args;
  call.rows = few.rows;
  call.first_step = kOutputs;
  call.second = kTileRows;
  if (beside.normed != nullptr) {
    call.squares = few.squares;
    call.square_parts = SquareParts(args.w.cols);
    call.eps = beside.normed->eps;
  }
  int64_t outputs = args.w.rows;
  if (beside.mlp != nullptr) {
    call.activates = true;
    call.activation = beside.mlp->activation;
    call.out = beside.mlp->y;
    call.first_step = kTileRows;
    call.second = outputs = beside.mlp->size;
  } else if (beside.norm != nullptr) {
    call.norms = true;
    call.out = beside.norm->y;
    call.weight = beside.norm->weight;
    call.out_squares = few.squares;
  }
  const LaunchShape shape = {dim3(CeilDiv(outputs, call.first_step)), kThreads};
  const auto kernel = few.rows <= kTileRows ? FewRowsKernel<1> : FewRowsKernel<2>;
  Launch(kernel, shape, few.stream, call);
}

}  // namespace evenflow
