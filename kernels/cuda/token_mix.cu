// A convolution works in place, and its ring is overwritten by the tokens that it serves. So where
// a row may have several tokens, what each stretch of tokens reads of those before it is put aside
// first (SaveKernel); then stretches are independent (MixKernel).
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/math/activations.h"

namespace evenflow {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxTaps = 8;
constexpr int kStretch = 16;  // tokens that a thread takes in turn

// TokenMixArgs without its vector.
struct Mix {
  Matrix x;
  int channels, taps, entries;
  const float* weight;
  const float* bias;
  std::byte* rings;  // slot 0's
  size_t slot_bytes;
  int segments;
  int segment_end[kMaxMixSegments];
  Activation activation[kMaxMixSegments];

  __device__ float* Entry(int slot, int64_t position, int channel) const {
    auto* ring = reinterpret_cast<float*>(rings + static_cast<size_t>(slot) * slot_bytes);
    return ring + position % entries * channels + channel;
  }

  __device__ float Activated(int channel, float value) const {
    int s = 0;
    while (channel >= segment_end[s]) {
      ++s;
    }
    return Activate(activation[s], value);
  }
};

// Pure decode: row r has token r.
__global__ void MixOneKernel(Mix mix, const Row* rows) {
  AwaitInputs();
  const Row row = rows[blockIdx.y];
  const int c = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (row.tokens == 0 || c >= mix.channels) {
    return;
  }
  const float* const weight = mix.weight + int64_t{c} * mix.taps;
  const float input = Load(mix.x, row.first_token, c);
  float sum = mix.bias == nullptr ? 0.0f : mix.bias[c];
  for (int tap = 0; tap < mix.taps - 1; ++tap) {
    const int64_t at = row.position - mix.taps + 1 + tap;
    if (at >= 0) {
      sum += weight[tap] * *mix.Entry(row.slot, at, c);
    }
  }
  sum += weight[mix.taps - 1] * input;
  Store(mix.x, row.first_token, c, mix.Activated(c, sum));
  if (mix.taps > 1) {
    *mix.Entry(row.slot, row.position, c) = input;
  }
}

// saved [stretch, then row][taps - 1][channel]: the inputs before a stretch, or before a row's
// first token; the newest comes first.
__global__ void SaveKernel(Mix mix, const Row* rows, const int32_t* token_row, int stretches,
                           float* saved) {
  AwaitInputs();
  const int item = static_cast<int>(blockIdx.y);
  const int c = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const bool is_row = item >= stretches;
  const int token = is_row ? rows[item - stretches].first_token : item * kStretch;
  const Row row = rows[is_row ? item - stretches : token_row[token]];
  if (c >= mix.channels || (!is_row && token == row.first_token)) {
    return;
  }
  for (int age = 1; age < mix.taps; ++age) {
    const int64_t at = row.position + (token - row.first_token) - age;
    float value = 0;
    if (at >= row.position) {
      value = Load(mix.x, token - age, c);
    } else if (at >= 0) {
      value = *mix.Entry(row.slot, at, c);
    }
    saved[(int64_t{item} * (mix.taps - 1) + age - 1) * mix.channels + c] = value;
  }
}

__global__ void MixKernel(Mix mix, const Row* rows, const int32_t* token_row, int tokens,
                          int stretches, const float* saved) {
  AwaitInputs();
  const int stretch = static_cast<int>(blockIdx.y);
  const int c = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (c >= mix.channels) {
    return;
  }
  float weight[kMaxTaps];  // of the token `age` tokens back
  float past[kMaxTaps];    // past[age], past[0] the token itself
#pragma unroll
  for (int age = 0; age < kMaxTaps; ++age) {
    weight[age] = age < mix.taps ? mix.weight[int64_t{c} * mix.taps + mix.taps - 1 - age] : 0.0f;
    past[age] = 0;
  }
  const float bias = mix.bias == nullptr ? 0.0f : mix.bias[c];
  const int begin = stretch * kStretch;
  const int end = min(begin + kStretch, tokens);
  for (int token = begin; token < end; ++token) {
    const int r = token_row[token];
    const Row row = rows[r];
    if (token == begin || token == row.first_token) {
      const int64_t item = token == row.first_token ? stretches + r : stretch;
#pragma unroll
      for (int age = 1; age < kMaxTaps; ++age) {
        past[age] =
            age < mix.taps ? saved[(item * (mix.taps - 1) + age - 1) * mix.channels + c] : 0.0f;
      }
    }
    past[0] = Load(mix.x, token, c);
    float sum = bias;
#pragma unroll
    for (int age = kMaxTaps - 1; age >= 0; --age) {
      sum += age < mix.taps ? weight[age] * past[age] : 0.0f;
    }
    Store(mix.x, token, c, mix.Activated(c, sum));
    const int after = row.first_token + row.tokens - token;
    if (mix.taps > 1 && after <= mix.entries) {  // later tokens take the place of earlier ones
      *mix.Entry(row.slot, row.position + (token - row.first_token), c) = past[0];
    }
#pragma unroll
    for (int age = kMaxTaps - 1; age > 0; --age) {
      past[age] = past[age - 1];
    }
  }
}

}  // namespace

const char* CudaRefusal(const TokenMixArgs& args) {
  return args.taps > kMaxTaps ? "convolutions of more than 8 taps"
         : args.segments.size() > kMaxMixSegments
             ? "convolutions with more than 8 segments of channels"
             : nullptr;
}

void CudaTokenMix(const TokenMixArgs& args, const CudaStep& step) {
  Mix mix = {args.x,
             args.channels,
             args.taps,
             std::max(1, args.taps - 1 + args.rollback),
             args.weight,
             args.bias,
             args.slots.base + args.ring_offset,
             args.slots.slot_bytes,
             static_cast<int>(args.segments.size()),
             {},
             {}};
  int end = 0;
  for (int s = 0; s < mix.segments; ++s) {
    const TokenMixArgs::Segment& segment = args.segments[static_cast<size_t>(s)];
    end += segment.channels;
    mix.segment_end[s] = end;
    mix.activation[s] = segment.activation;
  }
  const unsigned parts = CeilDiv(args.channels, kThreads);
  if (step.max_row_tokens == 1) {
    Launch(MixOneKernel, {dim3(parts, static_cast<unsigned>(step.row_count)), kThreads},
           step.stream, mix, step.rows);
    return;
  }
  const auto stretches = static_cast<int>(CeilDiv(step.token_count, kStretch));
  const int items = stretches + step.row_count;
  auto* const saved = static_cast<float*>(
      step.scratch->Take(sizeof(float) * static_cast<size_t>(items) *
                         static_cast<size_t>(args.taps) * static_cast<size_t>(args.channels)));
  if (saved == nullptr) {
    return;  // the allocation's error is found by the backend
  }
  if (args.taps > 1) {
    Launch(SaveKernel, {dim3(parts, static_cast<unsigned>(items)), kThreads}, step.stream, mix,
           step.rows, step.token_row, stretches, saved);
  }
  Launch(MixKernel, {dim3(parts, static_cast<unsigned>(stretches)), kThreads}, step.stream, mix,
         step.rows, step.token_row, step.token_count, stretches, saved);
}

}  // namespace evenflow
