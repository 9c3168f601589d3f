// A warp prepares one head of one token: a query, a key, a value, or the decay and write strength
// of a state.
#include <algorithm>
#include <vector>

#include "kernels/cuda/four.cuh"
#include "kernels/cuda/level_weights.h"
#include "kernels/cuda/memory_inputs.cuh"

namespace evenflow {
namespace {

constexpr int kMaxWarps = 8;                // of a block
constexpr size_t kSharedBytes = 48 * 1024;  // of a block

// A head of queries or keys and what becomes of it.
struct Head {
  int64_t token;
  int column;  // its first
  HeadNorm norm;
  float scale;
  float* out;  // [key_dim]
};

// W x + b at output i, W [dim, dim].
__device__ float Project(const float* w, const float* b, int dim, const float* x, int i) {
  float sum = b == nullptr ? 0.0f : b[i];
  for (int j = 0; j < dim; ++j) {
    sum += w[int64_t{i} * dim + j] * x[j];
  }
  return sum;
}

// y [2 dim] <- softmax([2 y, -2 y]) of its first half.
__device__ void Hedgehog(int dim, int lane, float* y) {
  float top = 0;
  for (int i = lane; i < dim; i += 32) {
    y[i] *= 2;
    y[dim + i] = -y[i];
    top = fmaxf(top, fabsf(y[i]));
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
  }
  float sum = 0;
  for (int i = lane; i < dim; i += 32) {
    y[i] = expf(y[i] - top);
    y[dim + i] = expf(y[dim + i] - top);
    sum += y[i] + y[dim + i];
  }
  const float factor = 1.0f / WarpSum(sum);
  for (int i = lane; i < dim; i += 32) {
    y[i] *= factor;
    y[dim + i] *= factor;
  }
}

__device__ void MapHead(const FeatureMapArgs& args, int dim, int lane, const float* x, float* y) {
  for (int i = lane; i < (args.map == FeatureMap::kDpfp ? MappedSize(args.map, dim) : dim);
       i += 32) {
    switch (args.map) {
      case FeatureMap::kIdentity:
      case FeatureMap::kSilu:
      case FeatureMap::kRelu:
      case FeatureMap::kElu1:
        y[i] = MapChannel(args.map, x[i]);
        break;
      case FeatureMap::kElementwiseProduct:
        y[i] = Project(args.w1, args.b1, dim, x, i) * Project(args.w2, args.b2, dim, x, i);
        break;
      case FeatureMap::kT2R:
        y[i] = Relu(Project(args.w1, args.b1, dim, x, i));
        break;
      case FeatureMap::kHedgehog:
        y[i] = Project(args.w1, args.b1, dim, x, i);
        break;
      case FeatureMap::kDpfp:
        y[i] = DpfpChannel(x, dim, i);
        break;
    }
  }
  if (args.map == FeatureMap::kHedgehog) {
    Hedgehog(dim, lane, y);
  }
}

// In registers, as the decode kernel does. REQUIRES: IsElementwise(map), key_dim 32 kCount.
template <int kCount>
__device__ void PrepareLanes(const MemoryInputsArgs& args, FeatureMap map, const Head& head,
                             const float2* rotation) {
  LaneChannels<kCount> channels;
  channels.Load(args.projected, head.token, head.column);
  channels.Prepare(map, head.norm, head.scale);
  if (rotation != nullptr) {
    channels.Turn(rotation);
  }
  channels.ForEach([&](int i, float x) { head.out[i] = x; });
}

// x and y are the warp's: [raw_key_dim] and [key_dim]. `rotation` [key_dim / 2], nullptr: none.
template <class T>
__device__ void PrepareHead(const MemoryInputsArgs& args, const FeatureMapArgs& map,
                            const Head& head, const float2* rotation, float* x, float* y) {
  const int dim = args.shape.key_dim;
  if (IsElementwise(map.map)) {
    switch (dim) {
      case 64:
        return PrepareLanes<2>(args, map.map, head, rotation);
      case 128:
        return PrepareLanes<4>(args, map.map, head, rotation);
      case 256:
        return PrepareLanes<8>(args, map.map, head, rotation);
    }
  }
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll 8
  for (int i = lane; i < args.raw_key_dim; i += 32) {
    x[i] = LoadAs<T>(args.projected, head.token, head.column + i);
  }
  __syncwarp();
  MapHead(map, args.raw_key_dim, lane, x, y);
  __syncwarp();
  float sum = 0;
  if (head.norm != HeadNorm::kNone) {
    for (int i = lane; i < dim; i += 32) {
      sum = AddChannel(head.norm, sum, y[i]);
    }
    sum = WarpSum(sum);
  }
  const float factor = HeadNormFactor(head.norm, sum) * head.scale;
  if (rotation == nullptr) {
    for (int i = lane; i < dim; i += 32) {
      head.out[i] = y[i] * factor;
    }
    return;
  }
  const int half = dim / 2;
  for (int i = lane; i < half; i += 32) {
    const RotaryPair turned =
        Rotate({y[i] * factor, y[i + half] * factor}, rotation[i].x, rotation[i].y);
    head.out[i] = turned.low;
    head.out[i + half] = turned.high;
  }
}

template <class T>
__device__ void PrepareValue(const MemoryInputsArgs& args, int64_t token, int head) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t column = args.v_column + int64_t{head} * args.raw_value_dim;
  float* const v = args.v + (token * args.shape.value_heads + head) * args.shape.value_dim;
  const bool scales = args.decay.gate == DecayGate::kTimeStep;  // each state has its own values
  const float scale = ValueScale(
      args.decay, head, scales ? LoadAs<T>(args.projected, token, args.decay_column + head) : 0);
  if (args.raw_value_dim % 128 == 0 && !args.ones_column && args.v_column % 4 == 0 &&
      args.projected.stride % 4 == 0) {
    const T* const from =
        static_cast<const T*>(args.projected.data) + token * args.projected.stride + column;
#pragma unroll 4
    for (int i = 4 * lane; i < args.raw_value_dim; i += 128) {
      const Four four = LoadFour(from + i);
      *reinterpret_cast<float4*>(v + i) =
          make_float4(four.x[0] * scale, four.x[1] * scale, four.x[2] * scale, four.x[3] * scale);
    }
    return;
  }
#pragma unroll 8
  for (int i = lane; i < args.raw_value_dim; i += 32) {
    v[i] = LoadAs<T>(args.projected, token, column + i) * scale;
  }
  if (args.ones_column && lane == 0) {
    v[args.raw_value_dim] = scale;
  }
}

// Log decay and write strength of a state.
template <class T>
__device__ void PrepareState(const MemoryInputsArgs& args, int64_t token, int head) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int heads = args.shape.heads;
  if (args.decay_column >= 0) {
    for (int c = lane; c < args.decay_channels; c += 32) {
      const int64_t channel = int64_t{head} * args.decay_channels + c;
      const int64_t at = token * heads * args.decay_channels + channel;
      const float g = LogDecay(args.decay, head, channel,
                               LoadAs<T>(args.projected, token, args.decay_column + channel));
      args.log_decay[at] = g;
      if (args.decay.gate == DecayGate::kLowerBounded) {
        args.k[at] = KeyOfDecay(g);
      }
    }
  }
  if (args.beta != nullptr && lane == 0) {
    const float x =
        args.beta_column < 0 ? 0 : LoadAs<T>(args.projected, token, args.beta_column + head);
    args.beta[token * heads + head] = WriteStrength(args, x);
  }
}

// What a token has for warps, states only where they have something of their own.
struct Items {
  int queries, keys, values, states;

  __host__ __device__ explicit Items(const MemoryInputsArgs& args)
      : queries(args.shape.query_heads),
        keys(args.k_column >= 0 ? args.shape.key_heads : 0),
        values(args.shape.value_heads),
        states(args.decay_column >= 0 || args.beta != nullptr ? args.shape.heads : 0) {}

  __host__ __device__ int all() const { return queries + keys + values + states; }
};

// Pairs of a token's rotation in shared memory.
__host__ __device__ int RotationPairs(const MemoryShape& shape) {
  return (shape.key_dim + 1) / 2;
}

// A block has some items of a token.
template <class T>
__global__ void MemoryInputsKernel(MemoryInputsArgs args, const int64_t* positions,
                                   const double* frequencies) {
  extern __shared__ float2 rotation[];  // [RotationPairs], then the warps' vectors
  const MemoryShape& shape = args.shape;
  const Items items(args);
  const int64_t token = blockIdx.x;
  const auto warps = static_cast<int>(blockDim.x / 32), warp = static_cast<int>(threadIdx.x / 32);
  const int first = static_cast<int>(blockIdx.y) * warps;
  int item = first + warp;
  const int half = shape.key_dim / 2;
  if (frequencies != nullptr && first < items.queries + items.keys) {
    for (auto i = static_cast<int>(threadIdx.x); i < half; i += 32 * warps) {
      rotation[i] = RotationAt(positions[token], frequencies[i]);
    }
    __syncthreads();
  }
  AwaitInputs();
  if (item >= items.all()) {
    return;
  }
  float* const x = reinterpret_cast<float*>(rotation + RotationPairs(shape)) +
                   warp * (args.raw_key_dim + shape.key_dim);
  float* const y = x + args.raw_key_dim;
  const float2* const turn = frequencies == nullptr ? nullptr : rotation;
  if (item < items.queries) {
    const Head head = {token, args.q_column + item * args.raw_key_dim, args.q_norm, args.q_scale,
                       args.q + (token * shape.query_heads + item) * shape.key_dim};
    return PrepareHead<T>(args, args.q_map, head, turn, x, y);
  }
  item -= items.queries;
  if (item < items.keys) {
    const Head head = {token, args.k_column + item * args.raw_key_dim, args.k_norm, 1.0f,
                       args.k + (token * shape.key_heads + item) * shape.key_dim};
    return PrepareHead<T>(args, args.k_map, head, turn, x, y);
  }
  item -= items.keys;
  if (item < items.values) {
    return PrepareValue<T>(args, token, item);
  }
  PrepareState<T>(args, token, item - items.values);
}

}  // namespace

CudaRotary::~CudaRotary() {
  for (const Table& table : tables_) {
    cudaFree(table.frequencies);
  }
}

const double* CudaRotary::Frequencies(float base, int dim) {
  for (const Table& table : tables_) {
    if (table.base == base && table.dim == dim) {
      return table.frequencies;
    }
  }
  std::vector<double> frequencies(static_cast<size_t>(dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = RotaryFrequency(base, static_cast<int>(i), dim);
  }
  const size_t bytes = frequencies.size() * sizeof(double);
  Table table = {base, dim, nullptr};
  if (cudaMalloc(&table.frequencies, bytes) == cudaSuccess) {
    cudaMemcpy(table.frequencies, frequencies.data(), bytes, cudaMemcpyHostToDevice);
    cudaStreamSynchronize(nullptr);  // the copy may be under way still
    tables_.push_back(table);
  }
  return table.frequencies;
}

void CudaMemoryInputs(const MemoryInputsArgs& args, const CudaStep& step) {
  const size_t rotation_bytes = sizeof(float2) * static_cast<size_t>(RotationPairs(args.shape));
  const size_t warp_bytes =
      sizeof(float) * static_cast<size_t>(args.raw_key_dim + args.shape.key_dim);
  const int items = Items(args).all();
  const auto fitting = static_cast<int>((kSharedBytes - rotation_bytes) / warp_bytes);
  const int warps = std::clamp(fitting, 1, std::min(items, kMaxWarps));
  const double* const frequencies = InputFrequencies(args, step);
  const dim3 blocks(static_cast<unsigned>(step.token_count), CeilDiv(items, warps));
  WithType(args.projected.dtype, [&]<class T>() {
    Launch(MemoryInputsKernel<T>,
           {blocks, 32 * warps, rotation_bytes + static_cast<size_t>(warps) * warp_bytes},
           step.stream, args, step.positions, frequencies);
  });
  if (args.level_weights.column >= 0) {
    CudaLevelWeights(args, step);
  }
}

}  // namespace evenflow
