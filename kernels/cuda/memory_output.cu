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
constexpr int kFewestTokens = 17;  // of a step for which a block a head would be too much

// The same for many tokens, `warps` of a block for a head, 4 channels a lane: see ServesFours.
template <class T>
__global__ void __launch_bounds__(32 * kHeadWarps)
    HeadOutputKernel(MemoryOutputArgs args, int warps, int count) {
  __shared__ float partial[kHeadWarps];
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int own = warp / warps;  // of the block's heads
  const int index =
      static_cast<int>(blockIdx.x) * (static_cast<int>(blockDim.x) / 32 / warps) + own;
  const int64_t token = index / args.heads;
  const int head = index % args.heads;
  const int i = 4 * static_cast<int>(threadIdx.x - 32 * warps * own);
  const int column = head * args.value_dim + i;
  const bool live = index < count && i < args.value_dim;
  const Four ones = {{1, 1, 1, 1}};
  const Four weight = live && args.weight != nullptr
                          ? LoadFour(args.weight + (args.weight_per_head ? column : i))
                          : ones;
  AwaitInputs();
  Four value = live ? LoadFour(args.o + int64_t{index} * args.value_dim + i) : Four{};
  Four gated = ones;
  if (live && args.gate.data != nullptr) {
    gated = LoadFour(static_cast<const T*>(args.gate.data) + token * args.gate.stride + column);
#pragma unroll
    for (float& gate : gated.x) {
      gate = Activate(args.gate_activation, gate);
    }
  }
  float factor = 1;
  if (args.norm != OutputNorm::kNone) {
    float squares = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      squares += SquareOf(args.norm, value.x[e], gated.x[e]);
    }
    squares = WarpSum(squares);
    if (warps > 1) {
      partial[warp] = squares;
      __syncthreads();
      squares = 0;
      for (int w = 0; w < warps; ++w) {
        squares += partial[own * warps + w];
      }
    }
    factor = InverseRms(squares, args.value_dim, args.eps);
  }
  if (live) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      value.x[e] = Finished(value.x[e], factor, weight.x[e], 0, gated.x[e]);
    }
    StoreFour(args.y, token * args.y.stride + column, value);
  }
}

// All is done here, no skip, no normaliser, and everything in whole pieces of 4 channels.
bool ServesFours(const MemoryOutputArgs& args, const LeftFactors& left, const CudaStep& step) {
  return left.data == nullptr && !step.batch_invariant && step.token_count >= kFewestTokens &&
         args.skip.data == nullptr && !args.normalizer && args.norm != OutputNorm::kGroup &&
         args.value_dim <= 128 * kHeadWarps && args.value_dim % 4 == 0 && InFours(args.gate) &&
         InFours(args.y) && InFours(args.o) && InFours(args.weight);
}

}  // namespace

void CudaMemoryOutput(const MemoryOutputArgs& args, const LeftFactors& left, const CudaStep& step) {
  if (ServesFours(args, left, step)) {
    const int count = step.token_count * args.heads;
    const auto warps = static_cast<int>(CeilDiv(args.value_dim, 128));  // of a head
    const int heads = kHeadWarps / warps;                               // of a block
    WithType(args.gate.dtype, [&]<class T>() {
      Launch(HeadOutputKernel<T>, {dim3(CeilDiv(count, heads)), 32 * warps * heads}, step.stream,
             args, warps, count);
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
