// y = x W^T for a few rows of bf16, bound by reading W, and what comes before and after it in place
// of launches of their own. A block goes over groups of 16 rows of W, its warps have a part of the
// columns each, of which they keep x in shared memory (where it fits). A lane reads 16 bytes at a
// time, of W as of x, and the tensor cores get them as they are: that the columns of a product are
// then in another order changes no sum, as it is the same for both. kUnroll pieces of W are on
// their way always, also before the step's inputs are there and while a group is summed up. The
// order of a sum depends on the number of columns alone, so a row's result not on the others. More
// than 16 rows are matmul_tiles.cu's, where it serves them.
//
// RMSNorm is one factor a row, which comes out of the product: (f x) W^T = f (x W^T). So the
// product that ends the residual stream's sum writes x times the norm's weight and each block's
// squares, and the product that reads it applies the factor. The norm of a memory's heads is one a
// row's head, so what each of its columns brings is multiplied before it is added.
#include <algorithm>

#include "kernels/cuda/few_rows.cuh"
#include "kernels/cuda/left_factors.cuh"

namespace evenflow {
namespace few_rows {
namespace {

constexpr int kTileRows = 8;  // rows of x of an mma; kOutputs are those of W
constexpr int kPiece = 8;     // values of 16 bytes
constexpr int kStretch = 32;  // columns that a warp takes at once: 4 lanes a row, a piece each
constexpr int kUnroll = 8;
constexpr int64_t kChunk = kUnroll * kStretch;
constexpr int kSumStretches = kLeftColumns / kStretch;  // whose sum has one factor
static_assert(kChunk % kLeftColumns == 0);
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

// Columns of a warp's part of a sum: whole stretches, of heads with factors two each.
__host__ __device__ inline int64_t ShareOf(int64_t inputs, bool heads) {
  const int64_t step = heads ? kLeftColumns : kStretch;
  return (inputs + kWarps * step - 1) / (kWarps * step) * step;
}

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
__device__ Outputs<1> OutputOf(const Call& call, int group) {
  const int thread = static_cast<int>(threadIdx.x);
  return {call, thread / kOutputs, group, thread % kOutputs};
}

template <int kTiles>
__device__ void Finish(const Call& call, int group, const Outputs<1>& output,
                       const Partial<kTiles>& partial, const float* factors) {
  const int in_group = static_cast<int>(threadIdx.x) % kOutputs;
  float value[1] = {};
  if (output.real) {
    value[0] = partial.Sum(output.row, in_group);
    output.Find(value, factors[output.row]);
  }
  if (call.activates) {  // the lane 8 further has up
    const float up[1] = {__shfl_down_sync(0xffffffffu, value[0], 8)};
    if (in_group < 8) {
      output.StoreActivated(call, value, up);
    }
    return;
  }
  output.StoreValues(call, value);
  if (call.norms) {
    float squares = __fmul_rn(value[0], value[0]);
#pragma unroll
    for (int offset = kOutputs / 2; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(0xffffffffu, squares, offset);
    }
    if (in_group == 0) {
      StoreSquares(call, output.row, group, squares);
    }
  }
}

template <int kTiles, bool kHeads>
__global__ void __launch_bounds__(kThreads, 2) FewRowsKernel(Call call) {
  extern __shared__ uint4 pieces[];  // of x, [warp, stretch, kTiles, lane], then factors of heads
  __shared__ Partial<kTiles> partial[2];
  __shared__ float factors[kTiles * kTileRows];
  const MatMulArgs& args = call.args;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row = lane / 4;  // of W, and of x
  const int64_t share = ShareOf(args.w.cols, kHeads);
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
  Outputs<1> output = OutputOf(call, static_cast<int>(blockIdx.x));
  AwaitInputs();

  for (int chunk = 0; chunk < (call.resident ? chunks : 1); ++chunk) {
    load_x(chunk);
  }
  Factors<kTiles * kTileRows> found;
  found.Load(call);
  float* of_heads = nullptr;
  if constexpr (kHeads) {
    constexpr int kFactors = kChunk / kLeftColumns * kTiles * kTileRows;
    of_heads = reinterpret_cast<float*>(pieces + (call.resident ? chunks : 1) *
                                                     (kWarps * kUnroll * kTiles * 32)) +
               warp * chunks * kFactors;
    FindHeadFactors<kTiles * kTileRows>(call, static_cast<int>(begin),
                                        chunks * static_cast<int>(kChunk), of_heads);
    of_heads += lane % 4 * 2;
  }
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
      for (int u = 0; u < kUnroll; u += kSumStretches) {
        float parts[kTiles][4] = {};
        auto& to = kHeads ? parts : sums;
#pragma unroll
        for (int v = u; v < u + kSumStretches; ++v) {
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) {
            const uint4 values = x[(v * kTiles + tile) * 32];
            Multiply(upper[v].x, lower[v].x, upper[v].y, lower[v].y, values.x, values.y, to[tile]);
            Multiply(upper[v].z, lower[v].z, upper[v].w, lower[v].w, values.z, values.w, to[tile]);
          }
          weights.Load(v, &upper[v], &lower[v]);
        }
        if constexpr (kHeads) {
          AddWeighted<kTileRows>(
              parts,
              of_heads + (chunk * kChunk / kLeftColumns + u / kSumStretches) * kTiles * kTileRows,
              sums);
        }
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

bool InTiles(const MatMulArgs& args) {
  return args.w.rows % 4 == 0 && InFours(args.y) && InFours(args.bias);
}

bool CanFollow(const MatMulArgs& args, const MlpActivationArgs& mlp) {
  return mlp.feeds_product && mlp.has_up && !args.add && args.y.data == mlp.gate_up.data &&
         args.w.rows == 2 * mlp.size && mlp.size % few_rows::kTileRows == 0 && InFours(mlp.y);
}

bool CanFollow(const MatMulArgs& args, const NormArgs& norm) {
  return norm.feeds_product && norm.tokens == args.tokens && args.add &&
         args.y.data == norm.x.data && args.w.rows == norm.dim && norm.kind == NormKind::kRms &&
         norm.weight != nullptr && norm.bias == nullptr && norm.y.dtype == DType::kBF16 &&
         norm.dim % few_rows::kPiece == 0 && SquareParts(norm.dim) <= kMaxSquareParts &&
         InFours(norm.y) && InFours(norm.weight);
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
  call.lacks = beside.lacks;
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
    call.leaves = beside.leaves;
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
  if (call.lacks.data != nullptr) {
    part.lacks.squares += int64_t{first} * call.lacks.heads * call.lacks.parts;
  }
  if (call.activates || call.norms) {
    part.out = RowsFrom(call.out, first);
  }
  if (call.norms) {
    part.leaves.squares += int64_t{first} * call.groups;
  }
  return part;
}

void LaunchAlone(Call call, cudaStream_t stream) {
  const int tiles = call.rows <= kTileRows ? 1 : 2;
  const bool heads = call.by_heads();
  const auto kernel = tiles == 1 ? heads ? FewRowsKernel<1, true> : FewRowsKernel<1, false>
                      : heads ? FewRowsKernel<2, true>
                                 : FewRowsKernel<2, false>;
  const unsigned chunks = CeilDiv(ShareOf(call.args.w.cols, heads), kChunk);
  const size_t chunk_bytes = sizeof(uint4) * kThreads * kUnroll * static_cast<size_t>(tiles);
  const size_t head_bytes = heads ? sizeof(float) * kWarps * chunks * (kChunk / kLeftColumns) *
                                        static_cast<size_t>(tiles * kTileRows)
                                  : 0;
  call.resident = chunk_bytes * chunks + head_bytes <= MostKept();
  LaunchShape shape = {dim3(1), kThreads, chunk_bytes * (call.resident ? chunks : 1) + head_bytes};
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
  const int at_once = few.tiles ? kMaxTileRows : kMaxFewRows;
  for (int first = 0; first < few.rows; first += at_once) {
    const few_rows::Call part = few_rows::RowsOf(call, first, std::min(few.rows - first, at_once));
    few.tiles ? few_rows::LaunchTiles(part, few.stream) : few_rows::LaunchAlone(part, few.stream);
  }
}

}  // namespace evenflow
