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
constexpr int kKeptPairs = 4;               // whose rotation a lane keeps in registers
constexpr size_t kSharedBytes = 48 * 1024;  // of a block

// A head of queries or keys and what becomes of it.
struct Head {
  int64_t token;
  int column;  // its first
  HeadNorm norm;
  float scale;
  float* out;  // [key_dim]
};

// Rotations of a token's heads; a lane has pairs lane, lane + 32, ...
class Rotation {
 public:
  // Reads nothing that a kernel writes. `frequencies` nullptr: none.
  __device__ Rotation(const int64_t* positions, const double* frequencies, int64_t token, int pairs)
      : frequencies_(frequencies), position_(frequencies == nullptr ? 0 : positions[token]) {
#pragma unroll
    for (int j = 0; j < kKeptPairs; ++j) {
      const int i = static_cast<int>(threadIdx.x % 32) + 32 * j;
      if (frequencies != nullptr && i < pairs) {
        sincosf(RotaryAngle(position_, frequencies[i]), &sin_[j], &cos_[j]);
      }
    }
  }

  __device__ bool none() const {
    return frequencies_ == nullptr;
  }

  // turn(i, cos, sin) for the lane's pairs.
  template <class Turn>
  __device__ void ForPairs(int pairs, const Turn& turn) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int j = 0; j < kKeptPairs; ++j) {
      if (lane + 32 * j < pairs) {
        turn(lane + 32 * j, cos_[j], sin_[j]);
      }
    }
    for (int i = lane + 32 * kKeptPairs; i < pairs; i += 32) {
      float sin, cos;
      sincosf(RotaryAngle(position_, frequencies_[i]), &sin, &cos);
      turn(i, cos, sin);
    }
  }

 private:
  const double* const frequencies_;
  const int64_t position_;
  float sin_[kKeptPairs] = {}, cos_[kKeptPairs] = {};
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

// x and y are the warp's: [raw_key_dim] and [key_dim].
template <class T>
__device__ void PrepareHead(const MemoryInputsArgs& args, const FeatureMapArgs& map,
                            const Head& head, const Rotation& rotation, float* x, float* y) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int dim = args.shape.key_dim;
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
  if (rotation.none()) {
    for (int i = lane; i < dim; i += 32) {
      head.out[i] = y[i] * factor;
    }
    return;
  }
  const int half = dim / 2;
  rotation.ForPairs(half, [&](int i, float cos, float sin) {
    const RotaryPair turned = Rotate({y[i] * factor, y[i + half] * factor}, cos, sin);
    head.out[i] = turned.low;
    head.out[i + half] = turned.high;
  });
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

template <class T>
__global__ void MemoryInputsKernel(MemoryInputsArgs args, int tokens, const int64_t* positions,
                                   const double* frequencies) {
  extern __shared__ float shared[];
  const MemoryShape& shape = args.shape;
  const int keys = args.k_column >= 0 ? shape.key_heads : 0;
  const int items = shape.query_heads + keys + shape.value_heads + shape.heads;
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const int64_t index = int64_t{blockIdx.x} * (blockDim.x / 32) + warp;
  const int64_t token = index / items;
  int item = static_cast<int>(index % items);
  const bool rotates = token < tokens && item < shape.query_heads + keys;
  const Rotation rotation(positions, rotates ? frequencies : nullptr, token, shape.key_dim / 2);
  AwaitInputs();
  if (token >= tokens) {
    return;
  }
  float* const x = shared + int64_t{warp} * (args.raw_key_dim + shape.key_dim);
  float* const y = x + args.raw_key_dim;
  if (item < shape.query_heads) {
    const Head head = {token, args.q_column + item * args.raw_key_dim, args.q_norm, args.q_scale,
                       args.q + (token * shape.query_heads + item) * shape.key_dim};
    return PrepareHead<T>(args, args.q_map, head, rotation, x, y);
  }
  item -= shape.query_heads;
  if (item < keys) {
    const Head head = {token, args.k_column + item * args.raw_key_dim, args.k_norm, 1.0f,
                       args.k + (token * shape.key_heads + item) * shape.key_dim};
    return PrepareHead<T>(args, args.k_map, head, rotation, x, y);
  }
  item -= keys;
  if (item < shape.value_heads) {
    return PrepareValue<T>(args, token, item);
  }
  PrepareState<T>(args, token, item - shape.value_heads);
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
  const MemoryShape& shape = args.shape;
  const int items = shape.query_heads + (args.k_column >= 0 ? shape.key_heads : 0) +
                    shape.value_heads + shape.heads;
  const size_t warp_bytes =
      sizeof(float) * static_cast<size_t>(args.raw_key_dim + args.shape.key_dim);
  const int warps = std::clamp(static_cast<int>(kSharedBytes / warp_bytes), 1, kMaxWarps);
  const double* const frequencies = InputFrequencies(args, step);
  const LaunchShape launch = {dim3(CeilDiv(int64_t{step.token_count} * items, warps)), warps * 32,
                              static_cast<size_t>(warps) * warp_bytes};
  WithType(args.projected.dtype, [&]<class T>() {
    Launch(MemoryInputsKernel<T>, launch, step.stream, args, step.token_count, step.positions,
           frequencies);
  });
  if (args.level_weights.column >= 0) {
    CudaLevelWeights(args, step);
  }
}

}  // namespace evenflow
