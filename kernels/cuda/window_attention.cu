// A block attends for one query head of one token: its warps take turns at the keys, each with a
// softmax of its own so far, and join these at the end. Which warp has a key depends on the place
// in the window alone. Queries and keys are rotated before and the ring is written after, since its
// new entries take the place of old ones that tokens of the step still see.
#include <cmath>

#include "kernels/cuda/launch.cuh"
#include "kernels/math/rotary.h"

namespace evenflow {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kKeys = 4;  // of a warp's turn
constexpr int kMaxHeadDim = 1024;

// Warp: one head of queries or keys of a token, in place.
__global__ void RotateKernel(WindowAttentionArgs args, const int64_t* positions,
                             const double* frequencies) {
  AwaitInputs();
  const int64_t token = blockIdx.x;
  const int half = args.head_dim / 2;
  for (int head = static_cast<int>(threadIdx.x) / 32; head < args.heads + args.key_heads;
       head += kWarps) {
    const int column = head < args.heads ? args.q_column + head * args.head_dim
                                         : args.k_column + (head - args.heads) * args.head_dim;
    for (int i = static_cast<int>(threadIdx.x % 32); i < half; i += 32) {
      float sin, cos;
      sincosf(RotaryAngle(positions[token], frequencies[i]), &sin, &cos);
      const RotaryPair turned = Rotate(
          {Load(args.projected, token, column + i), Load(args.projected, token, column + half + i)},
          cos, sin);
      Store(args.projected, token, column + i, turned.low);
      Store(args.projected, token, column + half + i, turned.high);
    }
  }
}

// Keys or values of one head as a row's tokens see them: `column` is the head's in the projections,
// `ring` [entries, head_dim] holds what came before the step.
struct Seen {
  const WindowAttentionArgs& args;
  Row row;
  int column;
  const float* ring;

  __device__ float At(int64_t position, int channel) const {
    return position >= row.position
               ? Load(args.projected, row.first_token + (position - row.position), column + channel)
               : ring[position % args.entries() * args.head_dim + channel];
  }
};

__device__ float* Ring(const WindowAttentionArgs& args, int slot, int key_head, bool values) {
  auto* const ring = reinterpret_cast<float*>(
      args.slots.base + static_cast<size_t>(slot) * args.slots.slot_bytes + args.ring_offset);
  const int64_t head = key_head + (values ? args.key_heads : 0);
  return ring + head * args.entries() * args.head_dim;
}

// A softmax over some keys: sum of e^{score - max}, and what it weighs of the values. A lane has
// channels lane, lane + 32, ...
template <int kChannels>
struct Softmax {
  float max = -INFINITY;
  float sum = 0;
  float values[kChannels] = {};

  // Keys [first, last], at most kKeys of them.
  __device__ void Add(const float (&q)[kChannels], const Seen& keys, const Seen& seen_values,
                      int64_t first, int64_t last) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int dim = keys.args.head_dim;
    float score[kKeys];
#pragma unroll
    for (int k = 0; k < kKeys; ++k) {
      score[k] = 0;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const int channel = lane + 32 * c;
        score[k] += first + k <= last && channel < dim ? q[c] * keys.At(first + k, channel) : 0.0f;
      }
    }
    float top = max;
#pragma unroll
    for (int k = 0; k < kKeys; ++k) {
      score[k] = first + k <= last ? WarpSum(score[k]) : -INFINITY;
      top = fmaxf(top, score[k]);
    }
    const float old = sum == 0 ? 0.0f : expf(max - top);
    sum *= old;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      values[c] *= old;
    }
#pragma unroll
    for (int k = 0; k < kKeys; ++k) {
      if (first + k <= last) {
        const float p = expf(score[k] - top);
        sum += p;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          const int channel = lane + 32 * c;
          values[c] += channel < dim ? p * seen_values.At(first + k, channel) : 0.0f;
        }
      }
    }
    max = top;
  }
};

template <int kChannels>
__global__ void AttendKernel(WindowAttentionArgs args, const Row* rows, const int32_t* token_row,
                             const int64_t* positions) {
  AwaitInputs();
  __shared__ float maxima[kWarps], sums[kWarps];
  __shared__ float values[kWarps][32 * kChannels];
  const int64_t token = blockIdx.x;
  const int r = token_row[token];
  if (r < 0) {
    return;
  }
  const Row row = rows[r];
  const int head = static_cast<int>(blockIdx.y);
  const int key_head = head * args.key_heads / args.heads;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const Seen keys{args, row, args.k_column + key_head * args.head_dim,
                  Ring(args, row.slot, key_head, false)};
  const Seen seen_values{args, row, args.v_column + key_head * args.head_dim,
                         Ring(args, row.slot, key_head, true)};
  const float scale = rsqrtf(static_cast<float>(args.head_dim));
  float q[kChannels];
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    const int channel = lane + 32 * c;
    q[c] = channel < args.head_dim
               ? scale * Load(args.projected, token, args.q_column + head * args.head_dim + channel)
               : 0.0f;
  }
  const int64_t last = positions[token];
  const int64_t begin = last < args.window ? 0 : last - args.window + 1;
  Softmax<kChannels> softmax;
  for (int64_t first = begin + warp * kKeys; first <= last; first += kWarps * kKeys) {
    softmax.Add(q, keys, seen_values, first, last);
  }
  if (lane == 0) {
    maxima[warp] = softmax.max;
    sums[warp] = softmax.sum;
  }
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    values[warp][lane + 32 * c] = softmax.values[c];
  }
  __syncthreads();
  float max = maxima[0];
  for (int w = 1; w < kWarps; ++w) {
    max = fmaxf(max, maxima[w]);
  }
  float weight[kWarps];
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) {
    weight[w] = sums[w] == 0 ? 0.0f : expf(maxima[w] - max);
    sum += weight[w] * sums[w];
  }
  for (int channel = static_cast<int>(threadIdx.x); channel < args.head_dim; channel += kThreads) {
    float value = 0;
    for (int w = 0; w < kWarps; ++w) {
      value += weight[w] * values[w][channel];
    }
    Store(args.y, token, head * args.head_dim + channel, value / sum);
  }
}

__global__ void AppendKernel(WindowAttentionArgs args, const Row* rows, const int32_t* token_row) {
  AwaitInputs();
  const int64_t token = blockIdx.x;
  const int r = token_row[token];
  if (r < 0) {
    return;
  }
  const Row row = rows[r];
  const int64_t into = token - row.first_token;
  if (row.tokens - into > args.entries()) {
    return;  // later tokens take its place
  }
  const int key_head = static_cast<int>(blockIdx.y);
  const int64_t entry = (row.position + into) % args.entries() * args.head_dim;
  float* const keys = Ring(args, row.slot, key_head, false) + entry;
  float* const values = Ring(args, row.slot, key_head, true) + entry;
  const int column = key_head * args.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < args.head_dim; i += kThreads) {
    keys[i] = Load(args.projected, token, args.k_column + column + i);
    values[i] = Load(args.projected, token, args.v_column + column + i);
  }
}

template <int kChannels>
void LaunchAttend(const WindowAttentionArgs& args, const CudaStep& step) {
  if (args.head_dim <= 32 * kChannels) {
    const dim3 blocks(static_cast<unsigned>(step.token_count), static_cast<unsigned>(args.heads));
    Launch(AttendKernel<kChannels>, {blocks, kThreads}, step.stream, args, step.rows,
           step.token_row, step.positions);
  } else if constexpr (32 * kChannels < kMaxHeadDim) {
    LaunchAttend<2 * kChannels>(args, step);
  }
}

}  // namespace

const char* CudaRefusal(const WindowAttentionArgs& args) {
  return args.head_dim > kMaxHeadDim ? "attention heads of more than 1024 channels" : nullptr;
}

void CudaWindowAttention(const WindowAttentionArgs& args, const CudaStep& step) {
  const double* const frequencies = step.rotary->Frequencies(args.rotary_base, args.head_dim);
  if (frequencies == nullptr) {
    return;  // the allocation's error is found by the backend
  }
  const auto tokens = static_cast<unsigned>(step.token_count);
  Launch(RotateKernel, {dim3(tokens), kThreads}, step.stream, args, step.positions, frequencies);
  LaunchAttend<1>(args, step);
  if (args.entries() > 0) {
    Launch(AppendKernel, {dim3(tokens, static_cast<unsigned>(args.key_heads)), kThreads},
           step.stream, args, step.rows, step.token_row);
  }
}

}  // namespace evenflow
