#include "kernels/cuda/launch.cuh"
#include "kernels/math/generalized_delta.h"
#include "kernels/math/head_norm.h"

namespace evenflow {
namespace {

// A warp for a token's head.
__global__ void GeneralizedDeltaKeysKernel(GeneralizedDeltaKeysArgs args) {
  AwaitInputs();
  const int64_t token = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x);
  const int dim = args.shape.key_dim;
  const int64_t first = int64_t{head} * dim;  // channel
  const int64_t index = (token * args.shape.heads + head) * dim;
  float squares = 0;
  for (int i = lane; i < dim; i += 32) {
    const float raw =
        Load(args.projected, token, args.k_column + first + i) * args.erase_weight[first + i];
    squares += raw * raw;
  }
  const float factor = HeadNormFactor(args.norm, WarpSum(squares));
  float bonus = 0;
  for (int i = lane; i < dim; i += 32) {
    const float k = Load(args.projected, token, args.k_column + first + i);
    const float kappa = k * args.erase_weight[first + i] * factor;
    const GeneralizedKeys keys =
        KeysOf(k, kappa, Load(args.projected, token, args.rate_column + first + i),
               args.rate_weight[first + i], args.log_decay[index + i]);
    args.k[2 * index + i] = keys.erasing;
    args.k[2 * index + dim + i] = keys.written;
    args.e[index + i] = keys.erased;
    bonus += args.q[index + i] * keys.written * args.bonus_weight[first + i];
  }
  bonus = WarpSum(bonus);
  const int value_dim = args.shape.value_dim;
  const int64_t value = (token * args.shape.heads + head) * value_dim;
  for (int i = lane; i < value_dim; i += 32) {
    const int64_t column = int64_t{head} * value_dim + i;
    float v = args.v[value + i];
    if (args.mix_column >= 0) {
      v = MixedValue(v, args.first_v[value + i],
                     Load(args.projected, token, args.mix_column + column));
      args.v[value + i] = v;
    } else {
      args.first_v[value + i] = v;
    }
    Store(args.projected, token, args.v_column + column, bonus * v);
  }
}

}  // namespace

void CudaGeneralizedDeltaKeys(const GeneralizedDeltaKeysArgs& args, const CudaStep& step) {
  const dim3 blocks(static_cast<unsigned>(step.token_count),
                    static_cast<unsigned>(args.shape.heads));
  Launch(GeneralizedDeltaKeysKernel, {blocks, 32}, step.stream, args);
}

}  // namespace evenflow
