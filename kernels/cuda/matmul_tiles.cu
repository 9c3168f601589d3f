// y = x W^T for up to 64 rows of bf16, bound by reading W. A tile is these rows and some outputs;
// the blocks of a cluster have a part of its columns each. W and x come through shared memory stage
// by stage, W as far ahead as there is room, also before the step's inputs are there. Two groups of
// four warps multiply every other stage (PTX ISA, section "Asynchronous Warpgroup Level Matrix
// Multiply-Accumulate Operation"); a warp of its own asks for what they will read. Then each group
// adds up half of the outputs, and each block of the cluster its share of them. A block takes less
// than half of a multiprocessor, so that one of the next product can begin to read beside it.
//
// How a sum is cut depends on the numbers of columns and outputs alone, and rows do not mix, so a
// row's result does not depend on the others. wgmma is there on sm_90a alone.
#include <algorithm>
#include <span>

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/few_rows.cuh"
#include "kernels/cuda/left_factors.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

namespace evenflow {
namespace few_rows {
namespace {

constexpr int kRows = kMaxTileRows;        // those of a wgmma's first operand
constexpr int kRowBytes = kSwizzledBytes;  // of a stage
constexpr int kColumns = kRowBytes / sizeof(__nv_bfloat16);
constexpr int kGroups = 2;    // of warps, kWarps in all
constexpr int kRowWarps = 4;  // of such a group: 16 rows each
constexpr int kLaunchedThreads = kThreads + 32;
static_assert(kLeftColumns % kColumns == 0);  // a stage is of one head
static_assert(kGroups * kRowWarps == kWarps && kRowWarps * 16 == kRows);

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
__device__ inline float4 Either(bool first, const float (&a)[4], const float (&b)[4]) {
  return make_float4(first ? a[0] : b[0], first ? a[1] : b[1], first ? a[2] : b[2],
                     first ? a[3] : b[3]);
}

// to += what products left, times the factors of its upper and its lower rows.
template <int kTiles>
__device__ inline void AddHead(const float (&products)[kTiles][4], float upper, float lower,
                               float (&to)[kTiles][4]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      to[i][j] = fmaf(products[i][j], j < 2 ? upper : lower, to[i][j]);
    }
  }
}

// All but the one that asks for stages.
__device__ inline void AwaitWarps() {
  asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
}

// What a lane does of 8 rows of x and a group of outputs.
class Piece {
 public:
  __device__ Piece(const Call& call, int first_row, int group)
      : group_(group), outputs_(call, first_row + Lane() / 4, group, Lane() % 4 * 4) {}

  __device__ void LoadOld(const Call& call) { outputs_.LoadOld(call.args); }

  // `factors`: of rows, nullptr where sums have them already.
  __device__ void Finish(const Call& call, float (&values)[4], const float* factors) const {
    outputs_.Find(values, factors == nullptr ? 1.0f : factors[outputs_.row]);
    if (call.activates) {  // the lane 2 further has up
      float ups[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        ups[i] = __shfl_down_sync(0xffffffffu, values[i], 2);
      }
      if (Lane() % 4 < 2) {
        outputs_.StoreActivated(call, values, ups);
      }
      return;
    }
    outputs_.StoreValues(call, values);
    if (call.norms) {
      float squares = 0;
#pragma unroll
      for (const float value : values) {
        squares = fmaf(value, value, squares);
      }
      squares += __shfl_xor_sync(0xffffffffu, squares, 1);
      squares += __shfl_xor_sync(0xffffffffu, squares, 2);
      if (Lane() % 4 == 0) {
        StoreSquares(call, outputs_.row, group_, squares);
      }
    }
  }

 private:
  __device__ static int Lane() {
    return static_cast<int>(threadIdx.x % 32);
  }

  int group_;
  Outputs<4> outputs_;
};
#endif

// kN: outputs of a tile. kParts: blocks of a cluster. kFactors: of a row, in the block's part of
// the columns, where each head has one; else 1. What a block shares:
template <int kN, int kParts, int kStages, int kFactors>
struct Tile {
  static constexpr int kTiles = kN / 8;                  // of 8 outputs
  static constexpr int kHalf = kTiles / kGroups;         // what a group of warps adds up
  static constexpr int kShare = kN / kOutputs / kParts;  // groups of outputs that a block does
  static_assert(kShare * kParts * kOutputs == kN && kHalf % 2 == 0);
  static_assert(kStages % kGroups == 0);  // a place is always read by the same warps,
  static_assert(kStages / kGroups >= 2);  // who say so when they have begun with their next one

  struct Stage {
    std::byte w[kN * kRowBytes];
    std::byte x[kRows * kRowBytes];
  };

  // Sums of a block's share of the outputs, as a wgmma leaves them.
  struct Sums {
    float4 of[kRowWarps][kShare][2][32];
  };

  union {
    Stage stages[kStages];

    struct {
      float4 given[kGroups][kHalf][kRowWarps][32];  // by a group of warps to the other
      Sums own[kParts];                             // for each block
    };
  };

  Sums others[kParts - 1];  // of the other blocks
  float factors[kFactors][kRows];
  CopyBarrier arrived[kStages];
  ArrivalBarrier read[kStages];
  CopyBarrier sums;
};

template <int kN, int kParts, int kStages, int kFactors>
__global__ void __launch_bounds__(kLaunchedThreads, 2)
    TilesKernel(const Call call, const __grid_constant__ CUtensorMap w,
                const __grid_constant__ CUtensorMap x) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Shared = Tile<kN, kParts, kStages, kFactors>;
  extern __shared__ __align__(1024) std::byte memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int rank = static_cast<int>(blockIdx.x) % kParts;
  const int first_group = static_cast<int>(blockIdx.x) / kParts * (kN / kOutputs);
  const int all = static_cast<int>((call.args.w.cols + kColumns - 1) / kColumns);
  const int begin = all * rank / kParts;
  const int count = all * (rank + 1) / kParts - begin;  // of stages
  const int row_warps = (call.rows + 15) / 16;
  const int sum_bytes = static_cast<int>(sizeof(typename Shared::Sums)) / kRowWarps * row_warps;

  const auto load_w = [&](int i) {
    CopyBarrier& arrived = shared.arrived[i % kStages];
    arrived.Expect(kN * kRowBytes + call.rows * kRowBytes);
    arrived.CopyTile(shared.stages[i % kStages].w, &w, (begin + i) * kColumns,
                     call.activates ? 0 : first_group * kOutputs, call.activates ? first_group : 0);
  };
  if (threadIdx.x == kThreads) {
    for (int i = 0; i < kStages; ++i) {
      shared.arrived[i].Init();
      shared.read[i].Init(kRowWarps);
    }
    shared.sums.Init();
    CopyBarrier::FenceInit();
    shared.sums.Expect((kParts - 1) * sum_bytes);
    for (int i = 0; i < min(kStages, count); ++i) {
      load_w(i);
    }
  }
  const auto piece_of = [&](int i) -> Piece {
    return {call, i / 2 / Shared::kShare * 16 + i % 2 * 8,
            first_group + rank * Shared::kShare + i / 2 % Shared::kShare};
  };
  Piece piece = piece_of(warp);
  __syncthreads();
  ArriveAtCluster();
  AwaitInputs();

  if (warp == kWarps) {
    if (lane == 0) {
      for (int i = 0; i < count; ++i) {
        if (i >= kStages) {
          shared.read[i % kStages].Wait((i / kStages - 1) % 2);
          load_w(i);
        }
        shared.arrived[i % kStages].CopyTile(shared.stages[i % kStages].x, &x,
                                             (begin + i) * kColumns, 0, 0);
      }
    }
    AwaitCluster();
    ArriveAtCluster();
    AwaitCluster();
    return;
  }
  piece.LoadOld(call);
  if constexpr (kFactors == 1) {
    Factors<kRows> found;  // before squares are driven out by the next product's W
    found.Load(call);
    found.Find(call, shared.factors[0]);
  }

  // The same in a warp, and known to be.
  const int warps = __shfl_sync(0xffffffffu, warp / kRowWarps, 0);
  const uint64_t first_x = OperandAt(shared.stages[0].x);
  const uint64_t first_w = OperandAt(shared.stages[0].w);
  int i = warps, last = -1;
  // The group's next stages, before `end`.
  const auto multiply = [&](int end, float(&sums)[Shared::kTiles][4]) {
    for (; i < end; i += kGroups) {
      const int slot = i % kStages;
      shared.arrived[slot].Wait(i / kStages % 2);
      const auto at = static_cast<uint64_t>(slot) * (sizeof(typename Shared::Stage) / 16);
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
      for (uint64_t k = 0; k < kRowBytes / 16; k += 2) {
        MultiplyAsync(first_x + at + k, first_w + at + k, sums);
      }
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      if (last >= 0) {
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (lane == 0) {
          shared.read[last].Arrive();
        }
      }
      last = slot;
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (auto& tile : sums) {
      asm volatile("" : "+f"(tile[0]), "+f"(tile[1]), "+f"(tile[2]), "+f"(tile[3]));
    }
  };
  const int rows = warp % kRowWarps;
  float sums[Shared::kTiles][4] = {};
  if constexpr (kFactors == 1) {
    multiply(count, sums);
  } else {
    const int stages = call.lacks.dim / kColumns;  // of a head
    const int first = begin / stages;
    const int heads = (begin + count - 1) / stages - first + 1;
    for (int f = static_cast<int>(threadIdx.x); f < heads * kRows; f += kThreads) {
      shared.factors[f / kRows][f % kRows] = HeadFactor(call, f % kRows, first + f / kRows);
    }
    AwaitWarps();
    for (int head = 0; head < heads; ++head) {
      float part[Shared::kTiles][4] = {};
      multiply(min((first + head + 1) * stages - begin, count), part);
      const float* const factors = &shared.factors[head][16 * rows + lane / 4];
      AddHead(part, factors[0], factors[8], sums);
    }
  }

  AwaitWarps();  // all stages have been read
#pragma unroll
  for (int i = 0; i < Shared::kHalf; ++i) {
    shared.given[warps][i][rows][lane] = Either(warps == 0, sums[i + Shared::kHalf], sums[i]);
  }
  AwaitWarps();
#pragma unroll
  for (int i = 0; i < Shared::kHalf; ++i) {
    const float4 keep = Either(warps == 0, sums[i], sums[i + Shared::kHalf]);
    const float4 other = shared.given[1 - warps][i][rows][lane];
    const int group = (warps * Shared::kHalf + i) / 2;
    shared.own[group / Shared::kShare].of[rows][group % Shared::kShare][i % 2][lane] =
        make_float4(keep.x + other.x, keep.y + other.y, keep.z + other.z, keep.w + other.w);
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  AwaitCluster();  // all of its blocks have begun
  AwaitWarps();
  if (threadIdx.x < kParts && static_cast<int>(threadIdx.x) != rank) {
    const int to = static_cast<int>(threadIdx.x);
    shared.sums.SendBytes(&shared.own[to], &shared.others[rank - (rank > to ? 1 : 0)], sum_bytes,
                          to);
  }
  __syncwarp();
  shared.sums.Wait(0);
  ArriveAtCluster();
  for (int i = warp; i < 2 * Shared::kShare * row_warps; i += kWarps) {
    if (i > warp) {
      piece = piece_of(i);
      piece.LoadOld(call);
    }
    float values[4] = {};
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const auto& from =
          part == rank ? shared.own[rank] : shared.others[part - (part > rank ? 1 : 0)];
      const float4* const fours = &from.of[i / 2 / Shared::kShare][i / 2 % Shared::kShare]
                                          [lane % 4 / 2][lane / 4 * 4 + lane % 2 * 2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float2 two = reinterpret_cast<const float2*>(fours + j)[i % 2];
        values[2 * j] += two.x;
        values[2 * j + 1] += two.y;
      }
    }
    piece.Finish(call, values, kFactors == 1 ? shared.factors[0] : nullptr);
  }
  AwaitCluster();  // what was sent has been read
#elif __CUDA_ARCH__ == 900
#error "wgmma is there on sm_90a, not on sm_90: build for 90a"
#endif
}

struct Plan {
  int outputs, parts;
  void (*run)(Call, CUtensorMap, CUtensorMap);
  size_t shared_bytes;
};

template <int kN, int kParts, int kStages, int kFactors = 1>
constexpr Plan PlanOf() {
  return {kN, kParts, TilesKernel<kN, kParts, kStages, kFactors>,
          sizeof(Tile<kN, kParts, kStages, kFactors>)};
}

// Few outputs leave multiprocessors for more parts. A part of the columns has half of the heads at
// most, and may begin within one.
constexpr int kPartHeads = kMaxLeftHeads / 2 + 1;
constexpr Plan kPlans[] = {PlanOf<64, 4, 6>(), PlanOf<64, 2, 6>(), PlanOf<96, 2, 4>()};
constexpr Plan kPlansByHeads[] = {PlanOf<64, 4, 6, kPartHeads>(), PlanOf<64, 2, 6, kPartHeads>()};

constexpr bool FitTwice(std::span<const Plan> plans) {
  constexpr size_t kMost = 113 << 10;  // of two blocks a multiprocessor, on sm_90
  return std::all_of(plans.begin(), plans.end(),
                     [](const Plan& plan) { return plan.shared_bytes <= kMost; });
}

static_assert(FitTwice(kPlans) && FitTwice(kPlansByHeads));

// The first whose blocks all run at once, if any.
const Plan& PlanFor(std::span<const Plan> plans, int64_t outputs) {
  static const unsigned places = 2 * static_cast<unsigned>(Multiprocessors());
  const Plan* plan = plans.data();
  while (plan != &plans.back() &&
         CeilDiv(outputs, plan->outputs) * static_cast<unsigned>(plan->parts) > places) {
    ++plan;
  }
  return *plan;
}

// Rows as they are; of gate and up, 8 of the one and 8 of the other.
CUtensorMap MapOfW(const Call& call, int outputs) {
  const Weight& w = call.args.w;
  if (call.activates) {
    return TensorMapOf(w.data, {w.cols, call.first_step, 2, call.groups},
                       {w.cols, call.second * w.cols, call.first_step * w.cols},
                       {kColumns, call.first_step, 2, outputs / kOutputs});
  }
  return TensorMapOf(w.data, {w.cols, w.rows, 1, 1}, {w.cols, w.cols, w.cols},
                     {kColumns, outputs, 1, 1});
}

CUtensorMap MapOfX(const Call& call) {
  const Matrix& x = call.args.x;
  return TensorMapOf(x.data, {call.args.w.cols, call.rows, 1, 1}, {x.stride, x.stride, x.stride},
                     {kColumns, call.rows, 1, 1});
}

}  // namespace

void LaunchTiles(const Call& call, cudaStream_t stream) {
  const int64_t outputs = int64_t{call.groups} * kOutputs;
  const Plan& plan = call.by_heads() ? PlanFor(kPlansByHeads, outputs) : PlanFor(kPlans, outputs);
  const auto parts = static_cast<unsigned>(plan.parts);
  const LaunchShape shape = {dim3(CeilDiv(outputs, plan.outputs) * parts), kLaunchedThreads,
                             plan.shared_bytes, parts};
  Launch(plan.run, shape, stream, call, MapOfW(call, plan.outputs), MapOfX(call));
}

}  // namespace few_rows

bool HasTiles() {
  using namespace few_rows;
  int major = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  if (major != 9 || FindTensorMapEncode() == nullptr) {
    return false;
  }
  for (const std::span<const Plan> plans : {std::span<const Plan>(kPlans), {kPlansByHeads}}) {
    for (const Plan& plan : plans) {
      cudaFuncSetAttribute(plan.run, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(plan.shared_bytes));
    }
  }
  return true;
}

}  // namespace evenflow
