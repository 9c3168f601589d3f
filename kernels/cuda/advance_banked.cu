// Advances banked memories (kernels/cpu/banked_advance.cc has the formulas). Rows of one token have
// three kernels: PrepareBanks makes what needs no columns, a table for each head; TakeBlocksIn has
// the rows for which a block of positions waits to be taken in, and does that bank by bank on the
// way; ReadBanks has the others, beside it. Of other rows a block has a head and up to 128 columns,
// a warp 4 quads of them, and each live bank is read once for several tokens of a block of
// positions.
#include <algorithm>

#include "kernels/cuda/advance_banked.h"
#include "kernels/cuda/around_advance.cuh"
#include "kernels/cuda/bank_block_prepare.cuh"
#include "kernels/cuda/banked_pass.cuh"

namespace evenflow {
namespace {

constexpr int kMaxWarps = 8;
constexpr int kLeastWarps = 2;             // of a block that leaves multiprocessors idle otherwise
constexpr int kMaxShareBytes = 112 << 10;  // of a block, so that two share a multiprocessor
constexpr int kPrepareWarps = 4;           // of a head where there are few
constexpr int kPrepareBlocks = 5;          // of those a multiprocessor has room for, at least
constexpr int kManyHeads = 8;              // a multiprocessor: a warp each prepares them
constexpr int kReadWarps = 4;              // of a block that only reads
constexpr int kReadBlocks = 3;             // of those a multiprocessor has room for, at least

// The tokens of a row from the t-th on that may read the banks together, at most `most`: of one
// block of positions. `stored`: tokens that are stored before.
__device__ Segment SegmentAt(const AdvanceCall& call, const Row& row, int t, int most, int queries,
                             int64_t stored) {
  const Window& window = call.args.window;
  const int64_t block = window.Block(row.position + t);
  Row until = row;
  until.tokens =
      Least(Least(row.tokens, t + most), static_cast<int>(block + window.commit - row.position));
  Segment segment;
  segment.first = t;
  segment.base = static_cast<int>((block < window.lag ? 0 : block - window.lag) - row.position);
  segment.stored = static_cast<int>(stored - row.position);
  segment.base_block = (row.position + segment.base) / window.commit;
  segment.stored_block = stored / window.commit;
  segment.reads = (until.tokens - t) * queries;
  segment.stored_after = static_cast<int>(call.StoredAfter(until, stored) - row.position);
  return segment;
}

// Where a block of threads is: a row's head and some columns, of which a warp has 16.
struct Part {
  int index;   // of the head and its columns
  int column;  // the thread's first

  __device__ Part(int block, int value_dim) {
    const int columns = static_cast<int>(blockDim.x) / 32 * kWarpColumns;
    const int parts = Count(value_dim);
    index = block / parts;
    column = block % parts * columns + static_cast<int>(threadIdx.x) / kQuadLanes * kQuad;
  }

  // Of a head.
  __device__ static int Count(int value_dim) {
    const int columns = static_cast<int>(blockDim.x) / 32 * kWarpColumns;
    return (value_dim + columns - 1) / columns;
  }
};

// A block for each row's head and some of its columns, for any number of tokens.
template <class Memory, class State>
__global__ void __launch_bounds__(32 * kMaxWarps, 2)
    AdvanceBankedKernel(const __grid_constant__ AdvanceCall call,
                        const __grid_constant__ BankedPlan plan) {
  extern __shared__ float4 memory[];
  AwaitInputs();
  const MemoryShape& shape = call.args.shape;
  const Part part(static_cast<int>(blockIdx.x), shape.value_dim);
  const int row_index = part.index / shape.heads;
  const Row row = call.rows[row_index];
  if (!call.Takes(row)) {
    return;
  }
  auto* const reads = reinterpret_cast<float*>(memory);
  float *const block = reads + plan.ReadFloats(), *const warp = block + plan.BlockFloats() +
                                                                static_cast<int>(threadIdx.x) / 32 *
                                                                    plan.WarpFloats();
  const BankedShared shared(plan, reads, block, warp);
  const int index = part.index % shape.heads;
  const HeadView<Memory> head(call, row, index);
  const HeadBanks<Memory> banks(call.args, head);
  const BankedPass<Memory, State> pass(plan, shared, head, banks, call, row_index, index,
                                       part.column);
  const BankedPrepare<Memory> prepare(plan, shared, head, banks);
  const BankBlockPrepare<Memory> prepare_block(plan, shared, head, banks);
  const int queries = head.queries();
  const int most = Least(kMaxReads, queries) == queries ? kMaxReads / queries : 1;
  int64_t stored = call.Stored(row);
  for (int t = 0; t < row.tokens;) {
    const Segment segment = SegmentAt(call, row, t, most, queries, stored);
    prepare.Reads(segment);
    if (segment.pending()) {
      prepare_block.Run(segment.stored);
    }
    __syncthreads();
    pass.Run(segment);
    __syncthreads();
    t += segment.reads / queries;
    stored = row.position + segment.stored_after;
  }
}

// Rows of one token that may take a block in, in their order. A warp.
class TakingRows {
 public:
  __device__ TakingRows(const AdvanceCall& call, int rows)
      : call_(call), rows_(rows), lane_(static_cast<int>(threadIdx.x) % 32), some_(Some()) {}

  // The n-th of them; -1: there are fewer. From call to call n does not decrease.
  __device__ int At(int n) {
    for (; n >= before_ + __popc(some_); some_ = Some()) {
      before_ += __popc(some_);
      first_ += 32;
      if (first_ >= rows_) {
        some_ = 0;
        return -1;
      }
    }
    const int of_lane = __popc(some_ & ((1u << lane_) - 1));
    const bool is = (some_ >> lane_ & 1) != 0 && before_ + of_lane == n;
    return first_ + __ffs(static_cast<int>(__ballot_sync(kWarp, is))) - 1;
  }

 private:
  // Of the 32 rows from first_ on, a bit each.
  __device__ uint32_t Some() const {
    const int i = first_ + lane_;
    const Window& window = call_.args.window;
    const Row row = call_.rows[Least(i, rows_ - 1)];
    const auto since = static_cast<int>(row.position % window.commit);
    return __ballot_sync(kWarp,
                         i < rows_ && call_.Takes(row) && (since == 0 || since < window.rollback));
  }

  const AdvanceCall& call_;
  const int rows_;
  const int lane_;
  int first_ = 0;
  int before_ = 0;  // how many come before first_
  uint32_t some_;
};

// Rows of one token, first of all: a block for each row's head fills its table.
template <class Memory>
__global__ void __launch_bounds__(32 * kPrepareWarps, kPrepareBlocks)
    PrepareBanks(const __grid_constant__ AdvanceCall call, const __grid_constant__ BankedPlan plan,
                 float* tables) {
  AwaitInputs();
  const MemoryShape& shape = call.args.shape;
  const int index = static_cast<int>(blockIdx.x) % shape.heads;
  const Row row = call.rows[static_cast<int>(blockIdx.x) / shape.heads];
  const bool is_taken = call.Takes(row);
  const int64_t stored = call.Stored(row);
  const HeadView<Memory> head(call, row, index);
  if constexpr (Traits<Memory>::kLogs) {
    if (is_taken && threadIdx.x == 0) {
      const Window& window = call.args.window;
      SumLogsOfBlock(head, row, static_cast<int>(window.Block(row.position) - row.position),
                     window.commit, 0);
    }
    __syncthreads();
  }
  const HeadBanks<Memory> banks(call.args, head);
  float* const table = tables + int64_t{blockIdx.x} * plan.TableFloats();
  BankedHeader header;
  header.row = row;
  header.segment = SegmentAt(call, row, 0, 1, is_taken ? 1 : 0, stored);
  header.live = LiveBanks(plan, banks, header.segment.base_block);
  if (threadIdx.x == 0) {
    *reinterpret_cast<BankedHeader*>(table) = header;
  }
  const BankedShared shared(plan, table + sizeof(header) / sizeof(float), nullptr, nullptr);
  BankedPrepare<Memory>(plan, shared, head, banks).Reads(header.segment);
}

// Copies a head's table to where a warp reads it.
__device__ void CopyTable(const BankedPlan& plan, const float* from, float* to) {
  for (int i = static_cast<int>(threadIdx.x) % 32; i < plan.TableFloats() / 4; i += 32) {
    reinterpret_cast<float4*>(to)[i] = __ldcg(reinterpret_cast<const float4*>(from) + i);
  }
  __syncwarp();
}

// Then those of them for which a block waits: blocks take a head and some columns each, one after
// the other. Others may read meanwhile.
template <class Memory, class State>
__global__ void __launch_bounds__(32 * kMaxWarps, 2)
    TakeBlocksIn(const __grid_constant__ AdvanceCall call, const __grid_constant__ BankedPlan plan,
                 const float* tables, int rows) {
  extern __shared__ float4 memory[];
  AwaitKernelsBefore();
  LetNextBegin();
  const MemoryShape& shape = call.args.shape;
  auto* const block = reinterpret_cast<float*>(memory);
  float* const warp = block + plan.BlockFloats() +
                      static_cast<int>(threadIdx.x) / 32 * (plan.WarpFloats() + plan.TableFloats());
  float* const table = warp + plan.WarpFloats();
  const auto& header = *reinterpret_cast<const BankedHeader*>(table);
  const BankedShared shared(plan, table + sizeof(header) / sizeof(float), block, warp);
  TakingRows taking(call, rows);
#pragma unroll 1
  for (int n = static_cast<int>(blockIdx.x);; n += static_cast<int>(gridDim.x)) {
    const Part part(n, shape.value_dim);
    const int row_index = taking.At(part.index / shape.heads);
    if (row_index < 0) {
      break;
    }
    const int index = part.index % shape.heads;
    CopyTable(plan, tables + (int64_t{row_index} * shape.heads + index) * plan.TableFloats(),
              table);
    if (header.segment.reads > 0 && header.segment.pending()) {
      const Row row = header.row;
      const HeadView<Memory> head(call, row, index);
      const HeadBanks<Memory> banks(call.args, head);
      BankBlockPrepare<Memory>(plan, shared, head, banks).Run(header.segment.stored);
      BankedPass<Memory, State>(plan, shared, head, banks, call, row_index, index, part.column)
          .RunFolded(header.segment, header.live);
    }
    __syncthreads();
  }
}

// And the others of them. Waits for the kernel before at its end only.
template <class Memory, class State>
__global__ void __launch_bounds__(32 * kReadWarps, kReadBlocks)
    ReadBanks(const __grid_constant__ AdvanceCall call, const __grid_constant__ BankedPlan plan,
              const float* tables) {
  extern __shared__ float4 memory[];
  LetNextBegin();
  const MemoryShape& shape = call.args.shape;
  const Part part(static_cast<int>(blockIdx.x), shape.value_dim);
  float* const table =
      reinterpret_cast<float*>(memory) + static_cast<int>(threadIdx.x) / 32 * plan.TableFloats();
  CopyTable(plan, tables + int64_t{part.index} * plan.TableFloats(), table);
  const auto& header = *reinterpret_cast<const BankedHeader*>(table);
  if (header.segment.reads > 0 && !header.segment.pending()) {
    const BankedShared shared(plan, table + sizeof(header) / sizeof(float), nullptr, nullptr);
    const Row row = header.row;
    const int index = part.index % shape.heads;
    const HeadView<Memory> head(call, row, index);
    const HeadBanks<Memory> banks(call.args, head);
    BankedPass<Memory, State>(plan, shared, head, banks, call, part.index / shape.heads, index,
                              part.column)
        .RunStored(header.segment, header.live);
  }
  if (blockIdx.x + 1 == gridDim.x) {
    AwaitKernelsBefore();
  }
}

// Of a head's columns, with so many warps a block.
int Parts(int value_dim, int warps) {
  return static_cast<int>(CeilDiv(CeilDiv(value_dim, kWarpColumns), warps));
}

// Warps of a block, at most `most`: as few parts of a head as fit and give each multiprocessor
// something to do.
int WarpsOf(const BankedPlan& plan, int value_dim, int heads, int most) {
  const int tiles = static_cast<int>(CeilDiv(value_dim, kWarpColumns));
  const auto warps = [&](int parts) { return static_cast<int>(CeilDiv(tiles, parts)); };
  int parts = warps(most);
  while (warps(parts) > 1 && (plan.Bytes(warps(parts)) > kMaxShareBytes ||
                              (warps(parts) > kLeastWarps && heads * parts < Multiprocessors()))) {
    ++parts;
  }
  return warps(parts);
}

template <class Kernel>
void AllowShared(Kernel kernel, size_t bytes) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(bytes));
}

// Whether rows of one token are served by kernels of their own.
bool HasSingles(const AdvanceArgs& args) {
  return args.shape.query_heads <= args.shape.heads;
}

template <class Memory, class State>
void RunSingles(AdvanceCall call, const CudaStep& step, float* tables) {
  call.end_tokens = 2;
  const MemoryShape& shape = call.args.shape;
  const BankedPlan plan = BankedPlan::Of<Memory>(call.args, true);
  const auto bytes = [&](int warps) {
    return sizeof(float) * static_cast<size_t>(warps * plan.TableFloats());
  };
  const int heads = step.row_count * shape.heads;
  const int preparers = heads > kManyHeads * Multiprocessors() ? 1 : kPrepareWarps;
  Launch(PrepareBanks<Memory>, {dim3(static_cast<unsigned>(heads)), 32 * preparers}, step.stream,
         call, plan, tables);
  const int takers = WarpsOf(plan, shape.value_dim, heads, kMaxWarps);
  const size_t taker_bytes = plan.Bytes(takers) + bytes(takers);
  const auto take = TakeBlocksIn<Memory, State>;
  AllowShared(take, taker_bytes);
  int at_once = 1;  // blocks of a multiprocessor
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, take, 32 * takers, taker_bytes);
  const int blocks =
      std::min(heads * Parts(shape.value_dim, takers), std::max(1, at_once) * Multiprocessors());
  Launch(take, {dim3(static_cast<unsigned>(blocks)), 32 * takers, taker_bytes}, step.stream, call,
         plan, static_cast<const float*>(tables), step.row_count);
  const int readers = WarpsOf(plan, shape.value_dim, heads, kReadWarps);
  const auto read = ReadBanks<Memory, State>;
  AllowShared(read, bytes(readers));
  Launch(read,
         {dim3(static_cast<unsigned>(heads * Parts(shape.value_dim, readers))), 32 * readers,
          bytes(readers)},
         step.stream, call, plan, static_cast<const float*>(tables));
}

template <class Memory, class State>
void Run(const AdvanceCall& call, const CudaStep& step, float* tables) {
  AdvanceCall others = call;
  if (HasSingles(call.args)) {
    RunSingles<Memory, State>(call, step, tables);
    others.min_tokens = 2;
  }
  if (step.max_row_tokens >= others.min_tokens) {
    LaunchSumLogs<Memory>(others, AllRows{step.row_count}, step);
    const MemoryShape& shape = call.args.shape;
    const BankedPlan plan = BankedPlan::Of<Memory>(call.args, false);
    const int heads = step.row_count * shape.heads;
    const int warps = WarpsOf(plan, shape.value_dim, heads, kMaxWarps);
    const size_t bytes = plan.Bytes(warps);
    const auto kernel = AdvanceBankedKernel<Memory, State>;
    AllowShared(kernel, bytes);
    Launch(kernel,
           {dim3(static_cast<unsigned>(heads * Parts(shape.value_dim, warps))), 32 * warps, bytes},
           step.stream, others, plan);
  }
  LaunchFinish<Memory>(call, AllRows{step.row_count}, step);
}

}  // namespace

size_t LeastSharedOfBanks(const AdvanceArgs& args) {
  return VisitMemory(args.memory, [&]<class Memory>() -> size_t {
    if constexpr (Banked<Memory>) {
      return BankedPlan::Of<Memory>(args, false).Bytes(1);
    } else {
      return 0;
    }
  });
}

size_t ScratchOfBanks(const AdvanceArgs& args, const CudaStep& step) {
  return VisitMemory(args.memory, [&]<class Memory>() -> size_t {
    if constexpr (Banked<Memory>) {
      return HasSingles(args)
                 ? sizeof(float) * static_cast<size_t>(step.row_count) *
                       static_cast<size_t>(args.shape.heads *
                                           BankedPlan::Of<Memory>(args, true).TableFloats())
                 : 0;
    } else {
      return 0;
    }
  });
}

void AdvanceBanks(const AdvanceCall& call, const CudaStep& step, std::byte* scratch) {
  auto* const tables = reinterpret_cast<float*>(scratch);
  VisitMemory(call.args.memory, [&]<class Memory>() {
    if constexpr (Banked<Memory>) {
      if (call.args.state_dtype == DType::kF32) {
        Run<Memory, float>(call, step, tables);
      } else {
        Run<Memory, __nv_bfloat16>(call, step, tables);
      }
    }
  });
}

}  // namespace evenflow
