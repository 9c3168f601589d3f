// y = x W^T for a few rows of bf16. Bound by reading W: a warp takes kOutputs rows of it, its lanes
// 16 bytes each of kUnroll pieces at a time, so that kOutputs * kUnroll loads are in flight; the
// first of them before the step's inputs are there. x comes from the cache. Every lane sums its own
// columns in fp32, in an order that the number of rows does not change.
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"

namespace evenflow {
namespace {

constexpr int kThreads = 128;
constexpr int kPiece = 8;  // values of 16 bytes
constexpr int kUnroll = 4;

// Rows of W that a warp takes for so many rows of x: more of them read x less often.
constexpr int Outputs(int rows) {
  return rows <= 2 ? 2 : 4;
}

__device__ inline uint4 LoadPiece(const __nv_bfloat16* data) {
  return __ldg(reinterpret_cast<const uint4*>(data));
}

// Weights are read once: they need not stay in the first cache.
__device__ inline uint4 LoadWeights(const __nv_bfloat16* data) {
  uint4 piece;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(piece.x), "=r"(piece.y), "=r"(piece.z), "=r"(piece.w)
               : "l"(data));
  return piece;
}

__device__ inline void Unpack(const uint4& piece, float* values) {
  const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(words[i] << 16);
    values[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

template <int kRows>
__global__ void __launch_bounds__(kThreads) FewRowsKernel(MatMulArgs args, int rows) {
  constexpr int kOutputs = Outputs(kRows);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t first = (int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32) * kOutputs;
  const int64_t inputs = args.w.cols;
  const auto* const w = static_cast<const __nv_bfloat16*>(args.w.data);
  const auto* const x = static_cast<const __nv_bfloat16*>(args.x.data);
  const int64_t stride = 32 * kPiece;
  const int64_t column = int64_t{lane} * kPiece;

  uint4 pieces[kOutputs][kUnroll];
  const auto load = [&](int64_t from) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = from + u * stride + column;
#pragma unroll
      for (int output = 0; output < kOutputs; ++output) {
        const bool inside = at < inputs && first + output < args.w.rows;
        pieces[output][u] =
            inside ? LoadWeights(w + (first + output) * inputs + at) : make_uint4(0, 0, 0, 0);
      }
    }
  };
  load(0);
  AwaitInputs();

  float sums[kOutputs][kRows] = {};
  for (int64_t from = 0; from < inputs; from += kUnroll * stride) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = from + u * stride + column;
      float weights[kOutputs][kPiece];
#pragma unroll
      for (int output = 0; output < kOutputs; ++output) {
        Unpack(pieces[output][u], weights[output]);
      }
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const bool inside = at < inputs && row < rows;
        float values[kPiece];
        Unpack(inside ? LoadPiece(x + row * args.x.stride + at) : make_uint4(0, 0, 0, 0), values);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
#pragma unroll
          for (int output = 0; output < kOutputs; ++output) {
            sums[output][row] += weights[output][i] * values[i];
          }
        }
      }
    }
    if (from + kUnroll * stride < inputs) {
      load(from + kUnroll * stride);
    }
  }
#pragma unroll
  for (int output = 0; output < kOutputs; ++output) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      float sum = WarpSum(sums[output][row]);
      const int64_t column_of_y = first + output;
      if (lane == 0 && row < rows && column_of_y < args.w.rows) {
        sum += args.bias == nullptr ? 0.0f : args.bias[column_of_y];
        sum += args.add ? Load(args.y, row, column_of_y) : 0.0f;
        Store(args.y, row, column_of_y, sum);
      }
    }
  }
}

template <int kRows>
void Enqueue(const MatMulArgs& args, int rows, cudaStream_t stream) {
  const dim3 blocks(CeilDiv(args.w.rows, (kThreads / 32) * Outputs(kRows)));
  Launch(FewRowsKernel<kRows>, {blocks, kThreads}, stream, args, rows);
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
  if (rows == 1) {
    Enqueue<1>(args, rows, stream);
  } else if (rows == 2) {
    Enqueue<2>(args, rows, stream);
  } else if (rows <= 4) {
    Enqueue<4>(args, rows, stream);
  } else {
    Enqueue<8>(args, rows, stream);
  }
}

}  // namespace evenflow
