// The ring is overwritten by the tokens that it serves, so rows of several tokens read it first
// (ShiftKernel) and fill it after that (KeepKernel).
#include "kernels/cuda/launch.cuh"

namespace evenflow {
namespace {

constexpr int kThreads = 128;

__device__ float* Entry(const TokenShiftArgs& args, int slot, int64_t position, int channel) {
  auto* const ring = reinterpret_cast<float*>(
      args.slots.base + static_cast<size_t>(slot) * args.slots.slot_bytes + args.ring_offset);
  return ring + position % args.ring() * args.channels + channel;
}

// A thread a channel of a token. With `keeps`, every row has one token.
__global__ void ShiftKernel(TokenShiftArgs args, const Row* rows, const int32_t* token_row,
                            bool keeps) {
  AwaitInputs();
  const int token = static_cast<int>(blockIdx.y);
  const int c = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int r = token_row[token];
  if (r < 0 || c >= args.channels) {
    return;
  }
  const Row row = rows[r];
  const int64_t position = row.position + (token - row.first_token);
  const float x = Load(args.x, token, c);
  float before = 0;
  if (token > row.first_token) {
    before = Load(args.x, token - 1, c);
  } else if (position > 0) {
    before = *Entry(args, row.slot, position - 1, c);
  }
  for (int s = 0; s < args.streams; ++s) {
    const int64_t column = int64_t{s} * args.channels + c;
    Store(args.y, token, column, x + (before - x) * args.mix[column]);
  }
  if (keeps) {
    *Entry(args, row.slot, position, c) = x;
  }
}

// The newest tokens of each row.
__global__ void KeepKernel(TokenShiftArgs args, const Row* rows) {
  AwaitInputs();
  const Row row = rows[blockIdx.y];
  const int c = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (c >= args.channels) {
    return;
  }
  for (int i = max(0, row.tokens - args.ring()); i < row.tokens; ++i) {
    *Entry(args, row.slot, row.position + i, c) = Load(args.x, row.first_token + i, c);
  }
}

}  // namespace

void CudaTokenShift(const TokenShiftArgs& args, const CudaStep& step) {
  const unsigned parts = CeilDiv(args.channels, kThreads);
  const bool decodes = step.max_row_tokens == 1;
  Launch(ShiftKernel, {dim3(parts, static_cast<unsigned>(step.token_count)), kThreads}, step.stream,
         args, step.rows, step.token_row, decodes);
  if (!decodes) {
    Launch(KeepKernel, {dim3(parts, static_cast<unsigned>(step.row_count)), kThreads}, step.stream,
           args, step.rows);
  }
}

}  // namespace evenflow
