// y = x W^T for a few rows of bf16, bound by reading W, and what comes before and after it in place
// of launches of their own. A block goes over groups of 16 rows of W, its warps have a part of the
// columns each, of which they keep x in shared memory (where it fits). A lane reads 16 bytes at a
// time, of W as of x, and the tensor cores get them as they are: that the columns of a product are
// then in another order changes no sum, as it is the same for both. kUnroll pieces of W are on
// their way always, also before the step's inputs are there and while a group is summed up. The
// order of a sum depends on the number of columns alone, so a row's result not on the others. More
// than 16 rows are matmul_cluster.cu's.
//
// RMSNorm is one factor a row, which comes out of the product: (f x) W^T = f (x W^T). So the
// product that ends the residual stream's sum writes x times the norm's weight and each block's
// squares, and the product that reads it applies the factor.
#include <algorithm>

#include "kernels/cuda/few_rows.cuh"

namespace evenflow {
namespace few_rows {
namespace {

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

// The thread's output of a group.
__device__ Output OutputOf(const Call& call, int group) {
  const int thread = static_cast<int>(threadIdx.x);
  return {call, thread / kOutputs, group, thread % kOutputs};
}

template <int kTiles>
__device__ void Finish(const Call& call, int group, const Output& output,
                       const Partial<kTiles>& partial, const float* factors) {
  const int in_group = static_cast<int>(threadIdx.x) % kOutputs;
  const float value =
      output.real ? output.Value(partial.Sum(output.row, in_group), factors[output.row]) : 0.0f;
  if (call.activates) {  // the lane 8 further has up
    const float up = __shfl_down_sync(0xffffffffu, value, 8);
    if (in_group < 8) {
      output.StoreActivated(call, value, up);
    }
    return;
  }
  output.StoreValue(call, value);
  if (call.norms) {
    float squares = __fmul_rn(value, value);
#pragma unroll
    for (int offset = kOutputs / 2; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(0xffffffffu, squares, offset);
    }
    if (in_group == 0) {
      StoreSquares(call, output.row, group, squares);
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
  Weights<kUnroll> weights(call, begin, end, static_cast<int>(blockIdx.x),
                           static_cast<int>(gridDim.x));
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    weights.Load(u, &upper[u], &lower[u]);
  }
  Output output = OutputOf(call, static_cast<int>(blockIdx.x));
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
    output = OutputOf(call, group + static_cast<int>(gridDim.x));
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

bool ServesFewRows(const MatMulArgs& args) {
  return args.x.dtype == DType::kBF16 && few_rows::IsWhole(args.x.data, args.x.stride) &&
         few_rows::IsWhole(args.w.data, args.w.cols);
}

int RowsAtOnce(int64_t inputs, int clusters) {
  return clusters > 0 && few_rows::FitsCluster(inputs) ? kMaxClusterRows : kMaxFewRows;
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

namespace few_rows {
namespace {

Call CallOf(const MatMulArgs& args, const Beside& beside, const FewRows& few) {
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
    call.out_squares = few.out_squares;
  }
  call.groups = static_cast<int>(CeilDiv(outputs, call.first_step));
  return call;
}

// The same for some of its rows.
Call RowsOf(const Call& call, int first, int rows) {
  Call part = call;
  part.args.x = RowsFrom(call.args.x, first);
  part.args.y = RowsFrom(call.args.y, first);
  part.rows = rows;
  if (call.squares != nullptr) {
    part.squares = call.squares + int64_t{first} * call.square_parts;
  }
  if (call.activates || call.norms) {
    part.out = RowsFrom(call.out, first);
  }
  if (call.norms) {
    part.out_squares = call.out_squares + int64_t{first} * call.groups;
  }
  return part;
}

void LaunchAlone(Call call, cudaStream_t stream) {
  const int tiles = call.rows <= kTileRows ? 1 : 2;
  const auto kernel = tiles == 1 ? FewRowsKernel<1> : FewRowsKernel<2>;
  const size_t chunk_bytes = sizeof(uint4) * kThreads * kUnroll * static_cast<size_t>(tiles);
  const size_t bytes = chunk_bytes * CeilDiv(ShareOf(call.args.w.cols), kChunk);
  call.resident = bytes <= MostKept();
  LaunchShape shape = {dim3(1), kThreads, call.resident ? bytes : chunk_bytes};
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(shape.shared_bytes));
  int blocks = 0;  // of a multiprocessor
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, shape.shared_bytes);
  shape.blocks.x = static_cast<unsigned>(std::min(call.groups, blocks * Multiprocessors()));
  Launch(kernel, shape, stream, call);
}

}  // namespace
}  // namespace few_rows

void CudaMatMulFewRows(const MatMulArgs& args, const Beside& beside, const FewRows& few) {
  const few_rows::Call call = few_rows::CallOf(args, beside, few);
  const int at_once = RowsAtOnce(args.w.cols, few.clusters);
  for (int first = 0; first < few.rows; first += at_once) {
    const few_rows::Call part = few_rows::RowsOf(call, first, std::min(few.rows - first, at_once));
    if (part.rows <= kMaxFewRows) {
      few_rows::LaunchAlone(part, few.stream);
    } else {
      few_rows::LaunchInClusters(part, few.clusters, few.stream);
    }
  }
}

}  // namespace evenflow
