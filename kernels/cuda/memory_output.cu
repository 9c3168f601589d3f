#include "kernels/cuda/four.cuh"
#include "kernels/cuda/memory_output.cuh"

namespace evenflow {
namespace {

constexpr int kKept = 4;  // channels that a thread keeps in registers

// A block for a token's head, or whatever is normalised together. T: of skip and gate.
template <class T>
__global__ void MemoryOutputKernel(MemoryOutputArgs args, LeftFactors left) {
  extern __shared__ float tile_sums[];
  const int64_t token = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y);
  const int dim = args.value_dim;
  const auto threads = static_cast<int>(blockDim.x);
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t column = int64_t{head} * dim;
  const float* const weight =
      args.weight == nullptr || !args.weight_per_head ? args.weight : args.weight + column;
  float weights[kKept];
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = thread + j * threads;
    weights[j] = weight != nullptr && i < dim ? weight[i] : 1.0f;
  }
  AwaitInputs();
  const float* const o = args.o + (token * args.heads + head) * (dim + (args.normalizer ? 1 : 0));
  const float scale = args.normalizer ? NormalizerFactor(o[dim], args.normalizer_floor) : 1.0f;
  const auto read = [&](int i) {
    const float value = o[i] * scale;
    return args.skip.data == nullptr || args.norm == OutputNorm::kGroup
               ? value
               : value + args.skip_weight[column + i] * LoadAs<T>(args.skip, token, column + i);
  };
  const auto gate = [&](int i) {
    return args.gate.data == nullptr ? 1.0f : LoadAs<T>(args.gate, token, column + i);
  };
  float values[kKept], gates[kKept];
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = thread + j * threads;
    values[j] = i < dim ? read(i) : 0.0f;
    gates[j] = i < dim ? gate(i) : 0.0f;
  }
  const auto for_channels = [&](const auto& visit) {
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      if (thread + j * threads < dim) {
        visit(thread + j * threads, values[j], Activate(args.gate_activation, gates[j]),
              weights[j]);
      }
    }
    for (int i = thread + kKept * threads; i < dim; i += threads) {
      visit(i, read(i), Activate(args.gate_activation, gate(i)),
            weight == nullptr ? 1.0f : weight[i]);
    }
  };
  float mean = 0;
  if (args.norm == OutputNorm::kGroup) {
    for_channels([&](int, float value, float, float) { mean += value; });
    mean = BlockSum(mean) / static_cast<float>(dim);
  }
  float factor = 1;
  if (args.norm != OutputNorm::kNone) {
    const auto sum_tile = [&](int i, float value, float gated) {
      const float sum = SumTile<1>(i < dim ? SquareOf(args.norm, value - mean, gated) : 0.0f);
      if (i < dim && i % kTile == 0) {
        tile_sums[i / kTile] = sum;
      }
    };
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      sum_tile(thread + j * threads, values[j], Activate(args.gate_activation, gates[j]));
    }
    for (int i = thread + kKept * threads; i - thread < dim; i += threads) {
      sum_tile(i, i < dim ? read(i) : 0, i < dim ? Activate(args.gate_activation, gate(i)) : 0);
    }
    __syncthreads();
    const int tiles = Tiles(dim);
    if (left.data == nullptr) {
      factor = InverseRms(SumTiles(tile_sums, tiles), dim, args.eps);
    }
    for (int part = thread; left.data != nullptr && part < left.parts; part += threads) {
      const int tile = part * kPartTiles;
      left.squares[(token * args.heads + head) * left.parts + part] =
          SumPart(tile_sums + tile, tiles - tile);
    }
  }
  for_channels([&](int i, float value, float gated, float w) {
    float added = 0;
    if (args.norm == OutputNorm::kGroup) {
      added = (args.bias == nullptr ? 0.0f : args.bias[column + i]) +
              (args.skip.data == nullptr ? 0.0f : LoadAs<T>(args.skip, token, column + i));
    }
    Store(args.y, token, column + i, Finished(value - mean, factor, w, added, gated));
  });
}

constexpr int kHeadWarps = 4;      // of a block
constexpr int kMaxFours = 4;       // of a lane
constexpr int kFewestTokens = 17;  // of a step for which a block a head would be too much

// The same for many tokens, a warp for a head: see ServesWarps.
template <class T>
__global__ void __launch_bounds__(32 * kHeadWarps)
    HeadOutputKernel(MemoryOutputArgs args, int count) {
  const int index = static_cast<int>(blockIdx.x * kHeadWarps + threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int dim = args.value_dim;
  const int64_t token = index / args.heads;
  const int column = index % args.heads * dim;
  const float* const weight =
      args.weight == nullptr || !args.weight_per_head ? args.weight : args.weight + column;
  Four weights[kMaxFours];
#pragma unroll
  for (int j = 0; j < kMaxFours; ++j) {
    const int i = 4 * (lane + 32 * j);
    weights[j] = i < dim && weight != nullptr ? LoadFour(weight + i) : Four{{1, 1, 1, 1}};
  }
  AwaitInputs();
  if (index >= count) {
    return;
  }
  const float* const o = args.o + int64_t{index} * dim;
  const T* const gate = args.gate.data == nullptr ? nullptr
                                                  : static_cast<const T*>(args.gate.data) +
                                                        token * args.gate.stride + column;
  Four values[kMaxFours], gates[kMaxFours];
#pragma unroll
  for (int j = 0; j < kMaxFours; ++j) {
    const int i = 4 * (lane + 32 * j);
    values[j] = i < dim ? LoadFour(o + i) : Four{};
    gates[j] = i < dim && gate != nullptr ? LoadFour(gate + i) : Four{{1, 1, 1, 1}};
  }
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kMaxFours; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float& gated = gates[j].x[e];
      gated = gate == nullptr ? 1.0f : Activate(args.gate_activation, gated);
      const float value = values[j].x[e];
      const float normed = args.norm == OutputNorm::kAfterGate ? value * gated : value;
      squares += normed * normed;
    }
  }
  const float factor =
      args.norm == OutputNorm::kNone ? 1.0f : InverseRms(WarpSum(squares), dim, args.eps);
#pragma unroll
  for (int j = 0; j < kMaxFours; ++j) {
    const int i = 4 * (lane + 32 * j);
    if (i < dim) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        values[j].x[e] = Finished(values[j].x[e], factor, weights[j].x[e], 0, gates[j].x[e]);
      }
      StoreFour(args.y, token * args.y.stride + column + i, values[j]);
    }
  }
}

// All is done here, no skip, no normaliser, and everything in whole pieces of 4 channels.
bool ServesWarps(const MemoryOutputArgs& args, const LeftFactors& left, const CudaStep& step) {
  return left.data == nullptr && !step.batch_invariant && step.token_count >= kFewestTokens &&
         args.skip.data == nullptr && !args.normalizer && args.norm != OutputNorm::kGroup &&
         args.value_dim <= 128 * kMaxFours && args.value_dim % 4 == 0 && InFours(args.gate) &&
         InFours(args.y) && InFours(args.o) && InFours(args.weight);
}

}  // namespace

void CudaMemoryOutput(const MemoryOutputArgs& args, const LeftFactors& left, const CudaStep& step) {
  if (ServesWarps(args, left, step)) {
    const int count = step.token_count * args.heads;
    WithType(args.gate.dtype, [&]<class T>() {
      Launch(HeadOutputKernel<T>, {dim3(CeilDiv(count, kHeadWarps)), 32 * kHeadWarps}, step.stream,
             args, count);
    });
    return;
  }
  const int threads = args.value_dim <= 128 ? 64 : args.value_dim <= 1024 ? 128 : 512;
  const dim3 blocks(static_cast<unsigned>(step.token_count), static_cast<unsigned>(args.heads));
  const DType dtype = args.gate.data == nullptr ? args.skip.dtype : args.gate.dtype;
  const size_t bytes = sizeof(float) * static_cast<size_t>(Tiles(args.value_dim));
  WithType(dtype, [&]<class T>() {
    Launch(MemoryOutputKernel<T>, {blocks, threads, bytes}, step.stream, args, left);
  });
}

}  // namespace evenflow
