// y = x W^T for a few rows of bf16, bound by reading W. A block takes 16 rows of W, its warps a
// part of the columns each. A lane reads 16 bytes at a time, of W as of x, and the tensor cores get
// them as they are: that the columns of a product are then in another order changes no sum, as it
// is the same for both. Up to kUnroll pieces of W are on their way before the step's inputs are
// there. The order of a sum depends on the number of columns alone, so a row's result not on the
// others.
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"

namespace evenflow {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kOutputs = 16;  // rows of W of a block, those of an mma's first operand
constexpr int kTileRows = 8;  // rows of x of an mma
constexpr int kPiece = 8;     // values of 16 bytes
constexpr int kStretch = 32;  // columns that a warp takes at once: 4 lanes a row, a piece each
constexpr int kUnroll = 8;

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

template <int kTiles>
__global__ void __launch_bounds__(kThreads) FewRowsKernel(MatMulArgs args, int rows) {
  __shared__ float partial[kWarps][kTiles * kTileRows][kOutputs + 1];
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row = lane / 4;  // of W, and of x
  const int64_t inputs = args.w.cols;
  const int64_t first = int64_t{blockIdx.x} * kOutputs;
  const auto* const w = static_cast<const __nv_bfloat16*>(args.w.data) + (first + row) * inputs;
  const auto* const x = static_cast<const __nv_bfloat16*>(args.x.data);
  const uint4 zero = make_uint4(0, 0, 0, 0);
  const int64_t share = (inputs + kWarps * kStretch - 1) / (kWarps * kStretch) * kStretch;
  const int64_t begin = warp * share;
  const int64_t end = min(begin + share, inputs);
  const int64_t column = lane % 4 * kPiece;

  uint4 upper[kUnroll], lower[kUnroll];  // of W's rows `row` and `row` + 8
  const auto load = [&](int64_t from) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = from + u * kStretch + column;
      const bool inside = at < end;
      upper[u] = inside && first + row < args.w.rows ? LoadWeights(w + at) : zero;
      lower[u] = inside && first + row + 8 < args.w.rows ? LoadWeights(w + 8 * inputs + at) : zero;
    }
  };
  load(begin);
  AwaitInputs();

  float sums[kTiles][4] = {};
  for (int64_t from = begin; from < end; from += kUnroll * kStretch) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = from + u * kStretch + column;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int r = tile * kTileRows + row;
        const uint4 values = at < end && r < rows
                                 ? *reinterpret_cast<const uint4*>(x + r * args.x.stride + at)
                                 : zero;
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
    partial[warp][r][row] = sums[tile][0];
    partial[warp][r + 1][row] = sums[tile][1];
    partial[warp][r][row + 8] = sums[tile][2];
    partial[warp][r + 1][row + 8] = sums[tile][3];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < rows * kOutputs; i += kThreads) {
    const int r = i / kOutputs;
    const int64_t output = first + i % kOutputs;
    if (output < args.w.rows) {
      float sum = 0;
#pragma unroll
      for (int part = 0; part < kWarps; ++part) {
        sum += partial[part][r][i % kOutputs];
      }
      sum += args.bias == nullptr ? 0.0f : args.bias[output];
      sum += args.add ? Load(args.y, r, output) : 0.0f;
      Store(args.y, r, output, sum);
    }
  }
}

template <int kTiles>
void Enqueue(const MatMulArgs& args, int rows, cudaStream_t stream) {
  Launch(FewRowsKernel<kTiles>, {dim3(CeilDiv(args.w.rows, kOutputs)), kThreads}, stream, args,
         rows);
}

bool IsWhole(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % sizeof(uint4) == 0 && stride % kPiece == 0;
}

}  // namespace

bool ServesFewRows(const MatMulArgs& args, int rows) {
  return rows <= kMaxFewRows && args.x.dtype == DType::kBF16 && args.w.dtype == DType::kBF16 &&
         IsWhole(args.x.data, args.x.stride) && IsWhole(args.w.data, args.w.cols);
}

void CudaMatMulFewRows(const MatMulArgs& args, int rows, cudaStream_t stream) {
  if (rows <= kTileRows) {
    Enqueue<1>(args, rows, stream);
  } else {
    Enqueue<2>(args, rows, stream);
  }
}

}  // namespace evenflow
