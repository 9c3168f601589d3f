// y = x W^T for up to 64 rows of bf16, to the bits of matmul_few_rows.cu, whose x would no longer
// fit beside W. Each block of a cluster has a part of the columns, those of a warp there, so that
// its part of x stays in shared memory; its warps go over groups of 16 rows of W, of which the next
// ones are on their way always. What a warp has summed up of a group it sends to the cluster's
// blocks, by the rows of x: block r adds up the parts of the rows from 8 r on, while the next group
// is multiplied. Clusters are there from sm_90 on.
#include <algorithm>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/few_rows.cuh"

namespace evenflow {
namespace few_rows {
namespace {

constexpr int kParts = kWarps;  // blocks of a cluster
constexpr int kMostWarps = 12;  // of a block
constexpr int kTilesAtOnce = 4;
constexpr int kMaxTiles = kMaxClusterRows / kTileRows;
static_assert(kMaxTiles <= kParts);

constexpr int kHalf = kUnroll / 2;

// Of a block, with zeros beyond its columns.
__host__ __device__ inline int StretchesOf(int64_t inputs) {
  return static_cast<int>((ShareOf(inputs) + kHalf * kStretch - 1) / (kHalf * kStretch)) * kHalf;
}

// Of a group: the parts of the rows that this block adds up, as an mma leaves them.
struct Exchange {
  float4 parts[kParts][32];  // [part, lane]
};

// Adds up the parts of a group, once await() has seen all; `tile` is of x.
template <class Await>
[[maybe_unused]] __device__ void Finish(const Call& call, int group, int tile, const Await& await,
                                        const Exchange& exchange, const float* factors) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int first_row = lane % 4 * 2;
  const auto output = [&](int i) -> Output {
    return {call, tile * kTileRows + first_row + i % 2, group, lane / 4 + i / 2 * 8};
  };
  Output outputs[4] = {output(0), output(1), output(2), output(3)};
#pragma unroll
  for (Output& one : outputs) {
    one.LoadOld(call.args);
  }
  await();
  float values[4] = {};
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const float4 sums = exchange.parts[part][lane];
    values[0] += sums.x;
    values[1] += sums.y;
    values[2] += sums.z;
    values[3] += sums.w;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[i] = outputs[i].Value(values[i], factors[first_row + i % 2]);
  }
  if (call.activates) {
    outputs[0].StoreActivated(call, values[0], values[2]);
    outputs[1].StoreActivated(call, values[1], values[3]);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    outputs[i].StoreValue(call, values[i]);
  }
  if (call.norms) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float squares =
          __fadd_rn(__fmul_rn(values[r], values[r]), __fmul_rn(values[r + 2], values[r + 2]));
#pragma unroll
      for (int offset = 16; offset > 2; offset /= 2) {
        squares += __shfl_xor_sync(0xffffffffu, squares, offset);
      }
      if (lane < 4) {
        StoreSquares(call, outputs[r].row, group, squares);
      }
    }
  }
}

// Stretches of x of this block's columns, as the tensor cores want it: [stretch, tile, lane].
template <int kTiles>
__device__ void CopyX(const Call& call, int64_t begin, int64_t end, int first, int last, uint4* x) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const Matrix& from = call.args.x;
  for (int i = first * kTiles + static_cast<int>(threadIdx.x / 32); i < last * kTiles;
       i += static_cast<int>(blockDim.x / 32)) {
    const int row = i % kTiles * kTileRows + lane / 4;
    const int64_t column = begin + i / kTiles * kStretch + lane % 4 * kPiece;
    CopyPiece(x + i * 32 + lane,
              static_cast<const __nv_bfloat16*>(from.data) + row * from.stride + column,
              row < call.rows && column < end ? 16 : 0);
  }
  CommitCopies();
}

template <int kCount>
__device__ inline void LoadX(const uint4* x, uint4 (&to)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    to[i] = x[i * 32];
  }
}

template <int kCount>
__device__ inline void MultiplyTiles(const uint4& upper, const uint4& lower,
                                     const uint4 (&x)[kCount], float (*sums)[4]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    Multiply(upper.x, lower.x, upper.y, lower.y, x[i].x, x[i].y, sums[i]);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    Multiply(upper.z, lower.z, upper.w, lower.w, x[i].z, x[i].w, sums[i]);
  }
}

// values[i] becomes values[(i + by) % kCount]; `by` is less than that.
template <int kCount>
__device__ inline void Rotate(float (&values)[kCount][4], int by) {
#pragma unroll
  for (int bit = 1; bit < kCount; bit *= 2) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float before[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        before[i] = values[i][j];
      }
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        values[i][j] = (by & bit) != 0 ? before[(i + bit) % kCount] : before[i];
      }
    }
  }
}

// `stages`: how many groups of a warp can be under way to other blocks, 2 unless it has but one.
template <int kTiles>
__global__ void __launch_bounds__(32 * kMostWarps, 1) ClusterKernel(Call call, int stages) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];  // Exchange [stage, warp], x
  __shared__ float factors[kTileRows];
  __shared__ CopyBarrier arrivals[2][kMostWarps];
  const MatMulArgs& args = call.args;
  const int warps = static_cast<int>(blockDim.x / 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  Exchange* const exchange = reinterpret_cast<Exchange*>(shared) + warp;
  uint4* const kept =
      reinterpret_cast<uint4*>(reinterpret_cast<Exchange*>(shared) + stages * warps);
  const int rank = static_cast<int>(blockIdx.x) % kParts;  // in its cluster
  const int64_t share = ShareOf(args.w.cols);
  const int64_t begin = min(rank * share, args.w.cols);
  const int64_t end = min(begin + share, args.w.cols);
  const int stretches = StretchesOf(args.w.cols);
  const int chunks = (stretches + kUnroll - 1) / kUnroll;
  const int step = static_cast<int>(gridDim.x) / kParts * warps;  // groups that there are at once
  int group = static_cast<int>(blockIdx.x) / kParts * warps + warp;

  if (lane == 0) {
    for (int i = 0; i < 2; ++i) {
      arrivals[i][warp].Init();
      CopyBarrier::FenceInit();
      arrivals[i][warp].Expect(sizeof(Exchange));
    }
  }
  ArriveAtCluster();
  uint4 upper[kUnroll], lower[kUnroll];
  Weights<kUnroll> weights(call, begin, end, group, step);
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    weights.Load(u, &upper[u], &lower[u]);
  }
  AwaitInputs();

  CopyX<kTiles>(call, begin, end, 0, min(stretches, kUnroll), kept);
  CopyX<kTiles>(call, begin, end, kUnroll, stretches, kept);
  Factors<1> found(rank * kTileRows);
  found.Load(call);
  found.Find(call, factors);
  WaitForCopies<1>();
  __syncthreads();

  constexpr int kAtOnce = kTiles % kTilesAtOnce == 0 ? kTilesAtOnce : kTiles % 2 == 0 ? 2 : 1;
  constexpr int kRounds = kTiles / kAtOnce;  // of a stretch
  int stage = 0, parity = 0, before = -1;    // `before` is the group whose parts are under way
  while (true) {
    float sums[kTiles][4] = {};
    const bool has = group - warp < call.groups;  // the same for the whole cluster
    for (int chunk = 0; has && chunk < chunks; ++chunk) {
      weights.Next(chunks);
      if (before < 0 && chunk == 1) {
        WaitForAllCopies();
        __syncthreads();
      }
      const uint4* const x = kept + chunk * (kUnroll * kTiles * 32) + lane;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (chunk * kUnroll + half * kHalf < stretches) {
          uint4 values[2][kAtOnce];
          LoadX(x + half * kHalf * kTiles * 32, values[0]);
#pragma unroll
          for (int i = 0; i < kHalf * kRounds; ++i) {
            if (i + 1 < kHalf * kRounds) {
              LoadX(x + (half * kHalf * kRounds + i + 1) * kAtOnce * 32, values[(i + 1) % 2]);
            }
            const int u = half * kHalf + i / kRounds;
            MultiplyTiles(upper[u], lower[u], values[i % 2], sums + i % kRounds * kAtOnce);
            if (i % kRounds == kRounds - 1) {
              weights.Load(u, &upper[u], &lower[u]);
            }
          }
        } else {
#pragma unroll
          for (int u = half * kHalf; u < half * kHalf + kHalf; ++u) {
            weights.Load(u, &upper[u], &lower[u]);
          }
        }
      }
    }
    if (before >= 0 && rank < kTiles) {
      const int last = stage ^ (stages - 1);
      CopyBarrier& arrived = arrivals[last][warp];
      Finish(
          call, before, rank, [&] { arrived.Wait(parity); }, exchange[last * warps], factors);
      if (lane == 0) {
        arrived.Expect(sizeof(Exchange));
      }
      parity ^= last;
    }
    if (!has) {
      return;
    }
    AwaitCluster();  // all have begun, and added up what was in this stage
    ArriveAtCluster();
    // Each to another block first, as one takes in no more than a warp sends.
    const int first = (rank + warp) % kTiles;
    Rotate(sums, first);
    float4* const here = &exchange[stage * warps].parts[rank][lane];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      arrivals[stage][warp].SendFour(sums[i], here, (first + i) % kTiles);
    }
    before = group;
    group += step;
    stage ^= stages - 1;
  }
#endif
}

constexpr struct {
  int tiles;
  void (*run)(Call, int);
} kKernels[] = {
    {2, ClusterKernel<2>}, {4, ClusterKernel<4>}, {6, ClusterKernel<6>}, {8, ClusterKernel<8>}};

static_assert(kMaxClusterRows == 8 * kTileRows);

// Bytes that a block shares, beside those of fixed size.
size_t SharedBytes(int64_t inputs, int tiles, int exchanges) {
  return static_cast<size_t>(StretchesOf(inputs) * kStretch * tiles * kTileRows) *
             sizeof(__nv_bfloat16) +
         static_cast<size_t>(exchanges) * sizeof(Exchange);
}

size_t MostShared() {
  int most = 0;
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  return static_cast<size_t>(std::max(most - 1024, 0));
}

}  // namespace

bool FitsCluster(int64_t inputs) {
  return SharedBytes(inputs, kMaxClusterRows / kTileRows, 2 * kMostWarps) <= MostShared();
}

void LaunchInClusters(const Call& call, int clusters, cudaStream_t stream) {
  const auto units_of = [&](int warps) { return static_cast<int>(CeilDiv(call.groups, warps)); };
  const auto groups_of = [&](int warps) {  // of a block, at most
    return static_cast<int>(CeilDiv(units_of(warps), clusters)) * warps;
  };
  int warps = kWarps;
  for (int more = kWarps + 1; more <= kMostWarps; ++more) {
    warps = groups_of(more) < groups_of(warps) ? more : warps;
  }
  const int units = units_of(warps);
  const int stages = units <= clusters ? 1 : 2;
  const auto* kernel = kKernels;
  while (kernel->tiles * kTileRows < call.rows) {
    ++kernel;
  }
  LaunchShape shape = {dim3(static_cast<unsigned>(kParts * std::min(units, clusters))), 32 * warps,
                       SharedBytes(call.args.w.cols, kernel->tiles, stages * warps), kParts};
  Launch(kernel->run, shape, stream, call, stages);
}

}  // namespace few_rows

int ClustersAtOnce() {
  using namespace few_rows;
  int has = 0, clusters = 0;
  cudaDeviceGetAttribute(&has, cudaDevAttrClusterLaunch, 0);
  if (has == 0) {
    return 0;
  }
  for (const auto& kernel : kKernels) {
    cudaFuncSetAttribute(kernel.run, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(MostShared()));
  }
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kParts, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(kParts);
  config.blockDim = dim3(32 * kMostWarps);
  config.dynamicSmemBytes = MostShared();
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaOccupancyMaxActiveClusters(&clusters, ClusterKernel<8>, &config) == cudaSuccess
             ? clusters
             : 0;
}

}  // namespace evenflow
