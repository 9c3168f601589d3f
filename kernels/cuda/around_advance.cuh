// What comes before and after the kernels that read several tokens of a row. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_AROUND_ADVANCE_CUH_
#define EVENFLOW_KERNELS_CUDA_AROUND_ADVANCE_CUH_

#include <algorithm>

#include "kernels/cuda/head_view.cuh"

namespace evenflow {

inline constexpr int kFinishWarps = 16;  // at most, a token each at a time
inline constexpr int kLogsAhead = 8;     // loads that are under way at once

// Rows that these kernels are launched for; of these they serve what the call takes.
struct AllRows {
  int count;

  __host__ __device__ int operator[](unsigned i) const { return static_cast<int>(i); }
};

// Cumulative log decays of channel k for the tokens of a row that lie in the block of positions
// which begins at `first`.
template <class Memory>
__device__ inline void SumLogsOfBlock(const HeadView<Memory>& head, const Row& row, int first,
                                      int commit, int k) {
  float log = first < 0 ? head.Log(-1)[k] : 0;
  const int end = Least(row.tokens, first + commit);
  for (int t = first < 0 ? 0 : first; t < end; t += kLogsAhead) {
    float own[kLogsAhead];
#pragma unroll
    for (int i = 0; i < kLogsAhead; ++i) {
      own[i] = t + i < end ? head.LogDecay(t + i)[k] : 0;
    }
#pragma unroll
    for (int i = 0; i < kLogsAhead; ++i) {
      if (t + i < end) {
        log += ClampLog(own[i]);
        head.StepLog(t + i)[k] = log;
      }
    }
  }
}

// Of all the rows' tokens. A block is a row, a head and a block of positions.
template <class Memory, class Rows>
__global__ void SumLogs(const __grid_constant__ AdvanceCall call,
                        const __grid_constant__ Rows rows) {
  AwaitInputs();
  const Row row = call.rows[rows[blockIdx.x]];
  const int commit = call.args.window.commit;
  const int first = static_cast<int>(call.args.window.Block(row.position) - row.position) +
                    static_cast<int>(blockIdx.z) * commit;
  if (!call.Takes(row) || first >= row.tokens) {
    return;
  }
  const HeadView<Memory> head(call, row, static_cast<int>(blockIdx.y));
  const int dim = LogDim<Memory>(call.args.shape);
  for (int k = static_cast<int>(threadIdx.x); k < dim; k += static_cast<int>(blockDim.x)) {
    SumLogsOfBlock(head, row, first, commit, k);
  }
}

// A warp copies, several of its loads on their way at once.
__device__ inline void CopyFloats(float* to, const float* from, int count) {
  constexpr int kLoads = 8;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < count; i += 32 * kLoads) {
    float x[kLoads];
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      x[load] = i + 32 * load < count ? from[i + 32 * load] : 0;
    }
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      if (i + 32 * load < count) {
        to[i + 32 * load] = x[load];
      }
    }
  }
}

// Once all of a row has been read: its keys and logs go into their rings, its health is summed. A
// block is a row and a head, and one more the row's health.
template <class Memory, class Rows>
__global__ void __launch_bounds__(32 * kFinishWarps)
    Finish(const __grid_constant__ AdvanceCall call, const __grid_constant__ Rows rows) {
  AwaitInputs();
  const int row_index = rows[blockIdx.x];
  const Row row = call.rows[row_index];
  if (!call.Takes(row)) {
    return;
  }
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const auto warps = static_cast<int>(blockDim.x / 32);
  const auto lane = static_cast<int>(threadIdx.x % 32);
  if (static_cast<int>(blockIdx.y) == call.args.shape.heads) {
    if (warp == 0) {
      const int64_t stored = call.Stored(row);
      const int64_t after = call.StoredAfter(row, stored);
      const int parts = call.args.shape.heads * Quads(call.args.shape.value_dim);
      FinishRow(call, row_index, row, after, after > stored ? parts : 0);
    }
    return;
  }
  const HeadView<Memory> head(call, row, static_cast<int>(blockIdx.y));
  const int log_dim = LogDim<Memory>(call.args.shape);
  const int first = row.tokens - Least(row.tokens, call.args.window.ring());
  for (int t = first + warp; t < row.tokens; t += warps) {
    CopyFloats(head.RingKeys(t), head.Keys(t), head.keys_dim());
    if (Traits<Memory>::kLogs) {
      CopyFloats(head.RingLog(t), head.StepLog(t), log_dim);
    }
    if constexpr (Banked<Memory>) {  // values and write strengths as they came
      for (int c = lane; c < call.args.shape.value_dim; c += 32) {
        *head.Value(t, 0, c) = head.InputValue(t)[c];
      }
      if (Memory::kHasBeta && lane == 0) {
        *head.RingBeta(t) = head.Strength(t);
      }
    }
  }
}

template <class Memory, class Rows>
void LaunchSumLogs(const AdvanceCall& call, const Rows& rows, const CudaStep& step) {
  if (Traits<Memory>::kLogs) {
    const MemoryShape& shape = call.args.shape;
    const dim3 blocks(static_cast<unsigned>(rows.count), static_cast<unsigned>(shape.heads),
                      CeilDiv(step.max_row_tokens, call.args.window.commit) + 1);
    Launch(SumLogs<Memory, Rows>, {blocks, std::min(LogDim<Memory>(shape), 256)}, step.stream, call,
           rows);
  }
}

template <class Memory, class Rows>
void LaunchFinish(const AdvanceCall& call, const Rows& rows, const CudaStep& step) {
  const dim3 blocks(static_cast<unsigned>(rows.count),
                    static_cast<unsigned>(call.args.shape.heads + 1));
  const int warps = std::min(step.max_row_tokens, kFinishWarps);
  Launch(Finish<Memory, Rows>, {blocks, 32 * warps}, step.stream, call, rows);
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_AROUND_ADVANCE_CUH_
