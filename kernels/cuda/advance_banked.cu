// Advances banked memories (kernels/cpu/banked_advance.cc has the formulas), any number of tokens a
// row: a block has a row's head and up to 128 columns, a warp 4 quads of them, and each live bank
// is read once for several tokens of a block of positions. Where a block of positions waits to be
// taken in, that is done on the way, bank by bank, and stored once it may be.
#include <algorithm>

#include "kernels/cuda/around_advance.cuh"
#include "kernels/cuda/banked_pass.cuh"

namespace evenflow {
namespace {

constexpr int kMaxWarps = 8;
constexpr int kLeastWarps = 2;             // of a block that leaves multiprocessors idle otherwise
constexpr int kMaxShareBytes = 112 << 10;  // of a block, so that two share a multiprocessor

// Calls visit(segment) with a row's tokens, as many at a time as may read the banks together: of
// one block of positions, and with kMaxReads queries.
template <class Visit>
__device__ void ForSegments(const AdvanceCall& call, const Row& row, int queries,
                            const Visit& visit) {
  const Window& window = call.args.window;
  const int most = Least(kMaxReads, queries) == queries ? kMaxReads / queries : 1;
  int64_t stored = call.Stored(row);
  Segment segment;
  for (int t = 0; t < row.tokens; t = segment.first + segment.reads / queries) {
    const int64_t block = window.Block(row.position + t);
    const int end =
        Least(Least(row.tokens, t + most), static_cast<int>(block + window.commit - row.position));
    segment.first = t;
    segment.base = static_cast<int>((block < window.lag ? 0 : block - window.lag) - row.position);
    segment.stored = static_cast<int>(stored - row.position);
    segment.base_block = (row.position + segment.base) / window.commit;
    segment.stored_block = stored / window.commit;
    segment.reads = (end - t) * queries;
    Row until = row;
    until.tokens = end;
    stored = call.StoredAfter(until, stored);
    segment.stored_after = static_cast<int>(stored - row.position);
    visit(segment);
  }
}

template <class Memory, class State>
__global__ void __launch_bounds__(32 * kMaxWarps, 2)
    AdvanceBankedKernel(const __grid_constant__ AdvanceCall call,
                        const __grid_constant__ BankedPlan plan) {
  extern __shared__ float4 memory[];
  AwaitInputs();
  const MemoryShape& shape = call.args.shape;
  const int columns = static_cast<int>(blockDim.x) / 32 * kWarpColumns;
  const int parts = (shape.value_dim + columns - 1) / columns;
  const int row_head = static_cast<int>(blockIdx.x) / parts;
  const int index = row_head % shape.heads;
  const Row row = call.rows[row_head / shape.heads];
  const int column = static_cast<int>(blockIdx.x) % parts * columns +
                     static_cast<int>(threadIdx.x) / kQuadLanes * kQuad;
  const HeadView<Memory> head(call, row, index);
  const HeadBanks<Memory> banks(call.args, head);
  const BankedShared shared(plan, reinterpret_cast<float*>(memory));
  State* const state = head.template StateData<State>() +
                       int64_t{index} * (plan.banks - 1) * shape.key_dim * shape.value_dim +
                       int64_t{column} * shape.key_dim;
  HealthPart* const part = call.parts + int64_t{row_head} * Quads(shape.value_dim) + column / kQuad;
  const BankedPrepare<Memory> prepare(plan, shared, head, banks);
  const BankedPass<Memory, State> pass(plan, shared, head, banks, call.args, column, state, part);
  ForSegments(call, row, head.queries(), [&](const Segment& segment) {
    prepare.Run(segment);
    pass.Run(segment);
    __syncthreads();
  });
}

template <class Memory, class State>
void Run(const AdvanceCall& call, const CudaStep& step) {
  LaunchSumLogs<Memory>(call, AllRows{step.row_count}, step);
  const MemoryShape& shape = call.args.shape;
  const BankedPlan plan = BankedPlan::Of<Memory>(call.args);
  // Of a head's columns, as few parts as fit and give each multiprocessor something to do.
  const int tiles = static_cast<int>(CeilDiv(shape.value_dim, kWarpColumns));
  const int heads = step.row_count * shape.heads;
  const auto warps = [&](int parts) { return static_cast<int>(CeilDiv(tiles, parts)); };
  int parts = warps(kMaxWarps);
  while (warps(parts) > 1 && (plan.Bytes(warps(parts)) > kMaxShareBytes ||
                              (warps(parts) > kLeastWarps && heads * parts < Multiprocessors()))) {
    ++parts;
  }
  const int threads = 32 * warps(parts);
  const size_t bytes = plan.Bytes(warps(parts));
  parts = static_cast<int>(CeilDiv(tiles, warps(parts)));
  const auto kernel = AdvanceBankedKernel<Memory, State>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(bytes));
  Launch(kernel, {dim3(static_cast<unsigned>(heads * parts)), threads, bytes}, step.stream, call,
         plan);
  LaunchFinish<Memory>(call, AllRows{step.row_count}, step);
}

}  // namespace

size_t LeastSharedOfBanks(const AdvanceArgs& args) {
  return VisitMemory(args.memory, [&]<class Memory>() -> size_t {
    if constexpr (Banked<Memory>) {
      return BankedPlan::Of<Memory>(args).Bytes(1);
    } else {
      return 0;
    }
  });
}

void AdvanceBanks(const AdvanceCall& call, const CudaStep& step) {
  VisitMemory(call.args.memory, [&]<class Memory>() {
    if constexpr (Banked<Memory>) {
      if (call.args.state_dtype == DType::kF32) {
        Run<Memory, float>(call, step);
      } else {
        Run<Memory, __nv_bfloat16>(call, step);
      }
    }
  });
}

}  // namespace evenflow
