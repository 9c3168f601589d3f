// y = x W^T for a few rows of bf16, bound by reading W. A block takes 16 rows of W, its warps a
// part of the columns each. A lane reads 16 bytes at a time, of W as of x, and the tensor cores get
// them as they are: that the columns of a product are then in another order changes no sum, as it
// is the same for both. Up to kUnroll pieces of W are on their way before the step's inputs are
// there. The order of a sum depends on the number of columns alone, so a row's result not on the
// others.
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
constexpr int64_t kMaxStageBytes = 40 * 1024;  // what a block has without asking for more
// Every block computes all of x anew. One H100, a step of RetNet-1.3B: 1 row 1.46 instead of 1.70
// ms, 8 rows 2.37 instead of 2.14 ms.
constexpr int kMaxComputedRows = 2;

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

// Two floats as bf16, the first one in the lower half.
__device__ inline uint32_t Pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ inline void Unpack(const uint4& piece, float (&values)[kPiece]) {
  const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(words[i] << 16);
    values[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

__device__ inline uint4 LoadPiece(const Matrix& matrix, int64_t row, int64_t column) {
  return *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(matrix.data) +
                                         row * matrix.stride + column);
}

__device__ inline void LoadFloats(const float* from, float (&values)[kPiece]) {
  const float4 low = reinterpret_cast<const float4*>(from)[0];
  const float4 high = reinterpret_cast<const float4*>(from)[1];
  const float all[kPiece] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    values[i] = all[i];
  }
}

// Where a piece of x comes from. What takes computing is put into shared memory first, where all
// lanes of a warp share the work. Load adds a piece's squares to *squares where rows are
// normalised.
struct FromMatrix {
  static constexpr bool kStaged = false, kNormed = false;
  Matrix x;

  __device__ uint4 Load(int64_t row, int64_t column) const { return LoadPiece(x, row, column); }
};

// RMSNorm of x. The factor of a row comes out of the sum: (f x) W^T = f (x W^T).
struct FromNorm {
  static constexpr bool kStaged = true, kNormed = true;
  Matrix x;
  const float* weight;
  int dim;

  __device__ int64_t Columns() const { return dim; }

  __device__ uint4 Load(int64_t row, int64_t column, float* squares) const {
    float values[kPiece], weights[kPiece];
    LoadFloats(static_cast<const float*>(x.data) + row * x.stride + column, values);
    LoadFloats(weight + column, weights);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      *squares += values[i] * values[i];
      values[i] *= weights[i];
    }
    return make_uint4(Pack(values[0], values[1]), Pack(values[2], values[3]),
                      Pack(values[4], values[5]), Pack(values[6], values[7]));
  }
};

// act(gate) * up.
struct FromActivation {
  static constexpr bool kStaged = true, kNormed = false;
  Matrix gate_up;
  int size;
  Activation activation;

  __device__ int64_t Columns() const { return size; }

  __device__ uint4 Load(int64_t row, int64_t column, float*) const {
    float values[kPiece], up[kPiece];
    Unpack(LoadPiece(gate_up, row, column), values);
    Unpack(LoadPiece(gate_up, row, size + column), up);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      values[i] = Activate(activation, values[i]) * up[i];
    }
    return make_uint4(Pack(values[0], values[1]), Pack(values[2], values[3]),
                      Pack(values[4], values[5]), Pack(values[6], values[7]));
  }
};

// What a block's warps hand to each other.
template <int kTiles>
struct Partial {
  float sums[kWarps][kTiles * kTileRows][kOutputs + 1];
  float squares[kWarps][kTiles * kTileRows];
};

// Columns of a warp.
__host__ __device__ inline int64_t ShareOf(int64_t inputs) {
  return (inputs + kWarps * kStretch - 1) / (kWarps * kStretch) * kStretch;
}

// Columns of the stage between two rows: not a multiple of 32 banks.
__host__ __device__ inline int64_t StageStride(int64_t share) {
  return share + kPiece;
}

// Columns [begin, end) of all rows, by a warp: into stage [row, StageStride], and the sums of their
// squares.
template <class Source>
__device__ void Stage(const Source& source, int rows, int64_t begin, int64_t end,
                      __nv_bfloat16* stage, float* squares) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t stride = StageStride(ShareOf(source.Columns()));
  for (int r = 0; r < rows; ++r) {
    float sum = 0;
    for (int64_t at = begin + lane * kPiece; at < end; at += 32 * kPiece) {
      *reinterpret_cast<uint4*>(stage + r * stride + at - begin) = source.Load(r, at, &sum);
    }
    if (Source::kNormed) {
      sum = WarpSum(sum);
      squares[r] = sum;
    }
  }
  __syncwarp();
}

template <int kTiles, class Source>
__device__ void Finish(const MatMulArgs& args, int rows, float eps,
                       const Partial<kTiles>& partial) {
  const int64_t first = int64_t{blockIdx.x} * kOutputs;
  for (int i = static_cast<int>(threadIdx.x); i < rows * kOutputs; i += kThreads) {
    const int r = i / kOutputs;
    const int64_t output = first + i % kOutputs;
    if (output < args.w.rows) {
      float sum = 0, squares = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        sum += partial.sums[warp][r][i % kOutputs];
        squares += Source::kNormed ? partial.squares[warp][r] : 0.0f;
      }
      sum *= Source::kNormed ? InverseRms(squares, static_cast<int>(args.w.cols), eps) : 1.0f;
      sum += args.bias == nullptr ? 0.0f : args.bias[output];
      sum += args.add ? Load(args.y, r, output) : 0.0f;
      Store(args.y, r, output, sum);
    }
  }
}

template <int kTiles, class Source>
__global__ void __launch_bounds__(kThreads)
    FewRowsKernel(MatMulArgs args, Source source, float eps, int rows) {
  __shared__ Partial<kTiles> partial;
  extern __shared__ __align__(16) __nv_bfloat16 stages[];
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row = lane / 4;  // of W, and of x
  const int64_t inputs = args.w.cols;
  const int64_t first = int64_t{blockIdx.x} * kOutputs;
  const auto* const w = static_cast<const __nv_bfloat16*>(args.w.data) + (first + row) * inputs;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  const int64_t share = ShareOf(inputs);
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

  __nv_bfloat16* const stage = stages + warp * rows * StageStride(share);
  if constexpr (Source::kStaged) {
    Stage(source, rows, begin, end, stage, partial.squares[warp]);
  }
  float sums[kTiles][4] = {};
  for (int64_t from = begin; from < end; from += kUnroll * kStretch) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = from + u * kStretch + column;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int r = tile * kTileRows + row;
        uint4 values = zero;
        if (at < end && r < rows) {
          if constexpr (Source::kStaged) {
            values = *reinterpret_cast<const uint4*>(stage + r * StageStride(share) + at - begin);
          } else {
            values = source.Load(r, at);
          }
        }
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
  Finish<kTiles, Source>(args, rows, eps, partial);
}

template <int kTiles, class Source>
void Enqueue(const MatMulArgs& args, const Source& source, float eps, const FewRows& call) {
  const int64_t stage = kWarps * call.rows * StageStride(ShareOf(args.w.cols));
  const LaunchShape shape = {
      dim3(CeilDiv(args.w.rows, kOutputs)), kThreads,
      Source::kStaged ? static_cast<size_t>(stage) * sizeof(__nv_bfloat16) : 0};
  Launch(FewRowsKernel<kTiles, Source>, shape, call.stream, args, source, eps, call.rows);
}

bool IsWhole(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % sizeof(uint4) == 0 && stride % kPiece == 0;
}

}  // namespace

bool ServesFewRows(const MatMulArgs& args, int rows) {
  return rows <= kMaxFewRows && args.x.dtype == DType::kBF16 &&
         IsWhole(args.x.data, args.x.stride) && IsWhole(args.w.data, args.w.cols);
}

bool CanCompute(const ProductInput& input, const MatMulArgs& args, int rows) {
  const int64_t stage = kWarps * rows * StageStride(ShareOf(args.w.cols)) * 2;
  if (!ServesFewRows(args, rows) || rows > kMaxComputedRows || stage > kMaxStageBytes) {
    return false;
  }
  if (input.norm) {
    const NormArgs& norm = *input.norm;
    return norm.kind == NormKind::kRms && norm.weight != nullptr && norm.bias == nullptr &&
           norm.x.dtype == DType::kF32 && IsWhole(norm.x.data, norm.x.stride) &&
           IsWhole(norm.weight, norm.dim);
  }
  const Matrix& gate_up = input.mlp->gate_up;
  return gate_up.dtype == DType::kBF16 && input.mlp->size % kPiece == 0 &&
         IsWhole(gate_up.data, gate_up.stride);
}

void CudaMatMulFewRows(const MatMulArgs& args, const ProductInput& input, const FewRows& call) {
  if (input.norm) {
    const NormArgs& norm = *input.norm;
    Enqueue<1>(args, FromNorm{norm.x, norm.weight, norm.dim}, norm.eps, call);
  } else if (input.mlp) {
    const MlpActivationArgs& mlp = *input.mlp;
    Enqueue<1>(args, FromActivation{mlp.gate_up, mlp.size, mlp.activation}, 0, call);
  } else if (call.rows <= kTileRows) {
    Enqueue<1>(args, FromMatrix{args.x}, 0, call);
  } else {
    Enqueue<2>(args, FromMatrix{args.x}, 0, call);
  }
}

}  // namespace evenflow
