// y = x W^T for a few rows of bf16, bound by reading W, and what comes before and after it in place
// of launches of their own. A block goes over groups of 16 rows of W, its warps have a part of the
// columns each, of which they keep x in shared memory (where it fits). A lane reads 16 bytes at a
// time, of W as of x, and the tensor cores get them as they are: that the columns of a product are
// then in another order changes no sum, as it is the same for both. kUnroll pieces of W are on
// their way always, also before the step's inputs are there and while a group is summed up. The
// order of a sum depends on the number of columns alone, so a row's result not on the others.
//
// RMSNorm is one factor a row, which comes out of the product: (f x) W^T = f (x W^T). So the
// product that ends the residual stream's sum writes x times the norm's weight and each block's
// squares, and the product that reads it applies the factor.
#include <algorithm>

#include "kernels/cuda/few_rows.cuh"
#include "kernels/math/activations.h"

namespace evenflow {
namespace few_rows {
namespace {

// One output of a thread, and what is known of it before its sum.
struct Output {
  int row, in_block;
  int64_t column;  // of y
  bool real;
  float added = 0;  // bias
  float old = 0;    // what was there
  float weight = 0;

  __device__ Output(const Call& call, int group)
      : row(static_cast<int>(threadIdx.x) / kOutputs),
        in_block(static_cast<int>(threadIdx.x) % kOutputs),
        column(int64_t{group} * call.first_step + in_block % 8 + (in_block < 8 ? 0 : call.second)),
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
      old = Load(args.y, row, column);
    }
  }
};

template <int kTiles>
__device__ void Finish(const Call& call, int group, const Output& output,
                       const Partial<kTiles>& partial, const float* factors) {
  const MatMulArgs& args = call.args;
  const float sum = output.real ? partial.Sum(output.row, output.in_block) * factors[output.row] +
                                      (output.added + output.old)
                                : 0.0f;
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
      call.out_squares[output.row * call.groups + group] = squares;
    }
  }
}

template <int kTiles>
__global__ void __launch_bounds__(kThreads) FewRowsKernel(Call call) {
  extern __shared__ uint4 pieces[];  // of x, [warp, stretch, kTiles, lane]
  __shared__ Partial<kTiles> partial[2];
  __shared__ float factors[kTiles * kTileRows];
  const MatMulArgs& args = call.args;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row = lane / 4;  // of W, and of x
  const int64_t share = ShareOf(args.w.cols);
  const int64_t begin = min(warp * share, args.w.cols);
  const int64_t end = min(begin + share, args.w.cols);
  const int chunks = static_cast<int>((share + kChunk - 1) / kChunk);

  uint4* const own = pieces + warp * ((call.resident ? chunks : 1) * kUnroll * kTiles * 32) + lane;
  const auto load_x = [&](int chunk) {
    const int64_t from = begin + chunk * kChunk + lane % 4 * kPiece;
    uint4* const to = own + (call.resident ? chunk : 0) * (kUnroll * kTiles * 32);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int r = tile * kTileRows + row;
      const auto* const x =
          static_cast<const __nv_bfloat16*>(args.x.data) + r * args.x.stride + from;
      const auto left = r < call.rows ? static_cast<int>(end - from) : 0;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        CopyPiece<true>(to + (u * kTiles + tile) * 32, x + u * kStretch,
                        u * kStretch < left ? 16 : 0);
      }
    }
  };
  uint4 upper[kUnroll], lower[kUnroll];
  Weights weights(call, begin, end);
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    weights.Load(u, &upper[u], &lower[u]);
  }
  Output output(call, static_cast<int>(blockIdx.x));
  AwaitInputs();

  for (int chunk = 0; chunk < (call.resident ? chunks : 1); ++chunk) {
    load_x(chunk);
  }
  Factors<kTiles> found;
  found.Load(call);
  int parity = 0;
  for (int group = static_cast<int>(blockIdx.x); group < call.groups;
       group += static_cast<int>(gridDim.x)) {
    output.LoadOld(args);
    float sums[kTiles][4] = {};
    for (int chunk = 0; chunk < chunks; ++chunk) {
      WaitForAllCopies();
      weights.Next(chunks);
      const uint4* const x = own + (call.resident ? chunk : 0) * (kUnroll * kTiles * 32);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const uint4 values = x[(u * kTiles + tile) * 32];
          Multiply(upper[u].x, lower[u].x, upper[u].y, lower[u].y, values.x, values.y, sums[tile]);
          Multiply(upper[u].z, lower[u].z, upper[u].w, lower[u].w, values.z, values.w, sums[tile]);
        }
        weights.Load(u, &upper[u], &lower[u]);
      }
      if (!call.resident) {
        load_x(chunk + 1 < chunks ? chunk + 1 : 0);
      }
    }
    Partial<kTiles>& here = partial[parity];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int r = tile * kTileRows + lane % 4 * 2;
      here.sums[warp][r][row] = sums[tile][0];
      here.sums[warp][r + 1][row] = sums[tile][1];
      here.sums[warp][r][row + 8] = sums[tile][2];
      here.sums[warp][r + 1][row + 8] = sums[tile][3];
    }
    if (group == static_cast<int>(blockIdx.x)) {
      found.Find(call, factors);
    }
    __syncthreads();
    Finish(call, group, output, here, factors);
    output = Output(call, group + static_cast<int>(gridDim.x));
    parity ^= 1;
  }
}

// Bytes of x that a block can keep.
size_t MostKept() {
  int most = 0;
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  const size_t others = 2 * sizeof(Partial<2>) + 1024;
  return static_cast<size_t>(most) > others ? static_cast<size_t>(most) - others : 0;
}

bool IsWhole(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % sizeof(uint4) == 0 && stride % kPiece == 0;
}

}  // namespace
}  // namespace few_rows

bool ServesFewRows(const MatMulArgs& args, int rows) {
  return rows <= kMaxFewRows && args.x.dtype == DType::kBF16 &&
         few_rows::IsWhole(args.x.data, args.x.stride) &&
         few_rows::IsWhole(args.w.data, args.w.cols);
}

bool CanFollow(const MatMulArgs& args, const MlpActivationArgs& mlp) {
  return mlp.feeds_product && mlp.has_up && !args.add && args.y.data == mlp.gate_up.data &&
         args.w.rows == 2 * mlp.size && mlp.size % few_rows::kTileRows == 0;
}

bool CanFollow(const MatMulArgs& args, const NormArgs& norm) {
  return norm.feeds_product && norm.tokens == args.tokens && args.add &&
         args.y.data == norm.x.data && args.w.rows == norm.dim && norm.kind == NormKind::kRms &&
         norm.weight != nullptr && norm.bias == nullptr && norm.y.dtype == DType::kBF16 &&
         norm.dim % few_rows::kPiece == 0 && SquareParts(norm.dim) <= kMaxSquareParts;
}

int SquareParts(int64_t dim) {
  return static_cast<int>(CeilDiv(dim, few_rows::kOutputs));
}

void CudaMatMulFewRows(const MatMulArgs& args, const Beside& beside, const FewRows& few) {
  few_rows::Call call = {};
  call.args = args;
  call.rows = few.rows;
  call.first_step = few_rows::kOutputs;
  call.second = few_rows::kTileRows;
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
    call.first_step = few_rows::kTileRows;
    call.second = outputs = beside.mlp->size;
  } else if (beside.norm != nullptr) {
    call.norms = true;
    call.out = beside.norm->y;
    call.weight = beside.norm->weight;
    call.out_squares = few.squares;
  }
  const int tiles = few.rows <= few_rows::kTileRows ? 1 : 2;
  const auto kernel = tiles == 1 ? few_rows::FewRowsKernel<1> : few_rows::FewRowsKernel<2>;
  const size_t chunk_bytes =
      sizeof(uint4) * few_rows::kThreads * few_rows::kUnroll * static_cast<size_t>(tiles);
  const size_t bytes = chunk_bytes * CeilDiv(few_rows::ShareOf(args.w.cols), few_rows::kChunk);
  call.groups = static_cast<int>(CeilDiv(outputs, call.first_step));
  call.resident = bytes <= few_rows::MostKept();
  LaunchShape shape = {dim3(1), few_rows::kThreads, call.resident ? bytes : chunk_bytes};
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(shape.shared_bytes));
  int blocks = 0;  // of a multiprocessor
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, few_rows::kThreads,
                                                shape.shared_bytes);
  shape.blocks.x = static_cast<unsigned>(std::min(call.groups, blocks * Multiprocessors()));
  Launch(kernel, shape, few.stream, call);
}

}  // namespace evenflow
