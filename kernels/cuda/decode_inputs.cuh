// What a token brings to a head, as a block of the decode kernel loads it.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_INPUTS_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_INPUTS_CUH_

#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/memory_inputs.cuh"

namespace evenflow {

// The index of a head of the step's token, in an array of so many a token.
__device__ inline uint32_t TokenHead(int token, int heads, uint32_t head) {
  return static_cast<uint32_t>(token) * static_cast<uint32_t>(heads) + head;
}

template <class Shape>
struct DecodeInputs {
  using Memory = typename Shape::Memory;
  using T = typename Shape::T;
  static constexpr int kDim = Shape::kKeyDim;
  static constexpr bool kScalar = Memory::kDecay == Decay::kScalar;

  float value = 0;  // in the lane's column
  float beta = 1;
  float log_decay = 0;  // where channels share it

  // What the token's value counts. `own` is what its own entry weighs in the last of its reads,
  // which is |w|^2 where the memory asks for that.
  __device__ float Strength(float own) const {
    if constexpr (ScalesByKey<Memory>) {
      static_assert(T::kEntries == 1 && T::kReads == 2 && T::kOwnKeys == 0);
      return Memory::Strength(beta, own);
    }
    return beta;
  }

  // A log decay that no kernel writes.
  __device__ float LoadConstant(const AdvanceCall& call) {
    if constexpr (Memory::kDecay == Decay::kConstant) {
      log_decay = call.args.log_decay[blockIdx.y];
    }
    return log_decay;
  }

  // What Prepare needs that no kernel writes, in time. A barrier of the block must follow.
  __device__ void BeforePrepare(const DecodePlan& plan, int64_t position,
                                DecodeShared<Shape>* shared) const {
    static_assert(kDim / 2 <= Shape::kThreads);
    const int thread = static_cast<int>(threadIdx.x);
    if (plan.frequencies != nullptr && thread < kDim / 2) {
      shared->rotation[thread] = RotationAt(position, plan.frequencies[thread]);
    }
    const DecayGateArgs& decay = plan.inputs.decay;
    const int head = static_cast<int>(blockIdx.y);
    if constexpr (T::kLogs) {
      if (decay.rate != nullptr) {
        PrefetchWeight(decay.rate + head);
      }
      if (decay.bias != nullptr) {
        ForKeyRows<Shape>(
            [&](int r) { PrefetchWeight(decay.bias + (T::kChannels ? head * kDim + r : head)); });
      }
    }
  }

  // From the projections of the step's token, as MemoryInputs. Goes where Load has it.
  __device__ void Prepare(const DecodePlan& plan, int token, int column,
                          DecodeShared<Shape>* shared) {
    const MemoryInputsArgs& args = plan.inputs;
    const Matrix& projected = args.projected;
    const int head = static_cast<int>(blockIdx.y);
    const int warp = static_cast<int>(threadIdx.x / 32);
    const auto value_head = static_cast<int>(plan.heads_a_value.Divide(blockIdx.y));
    // All loads, before anything waits for one of them.
    LaneChannels<kDim / 32> vector;  // the query is the first warp's, the key the second's
    const bool has_vector = warp == 0 || (warp == 1 && args.k_column >= 0);
    if (has_vector) {
      const SmallDivider& heads = warp == 0 ? plan.heads_a_query : plan.heads_a_key;
      vector.Load(projected, token,
                  (warp == 0 ? args.q_column : args.k_column) +
                      static_cast<int>(heads.Divide(blockIdx.y)) * kDim);
    }
    const auto load = [&](int64_t at) { return ::evenflow::Load(projected, token, at); };
    if (column < args.shape.value_dim) {
      value = load(args.v_column + int64_t{value_head} * args.shape.value_dim + column);
    }
    float raw_log = kScalar ? load(args.decay_column + head) : 0;
    const float raw_beta =
        Memory::kHasBeta && args.beta_column >= 0 ? load(args.beta_column + head) : 0;
    if constexpr (T::kChannels) {
      ForKeyRows<Shape>([&](int r) {
        const int64_t channel = int64_t{head} * kDim + r;
        const float g = LogDecay(args.decay, head, channel, load(args.decay_column + channel));
        shared->log[r] = g;
        if (args.decay.gate == DecayGate::kLowerBounded) {
          shared->SetVector(1, r, KeyOfDecay(g));
        }
      });
    }
    if (has_vector) {
      vector.Prepare(warp == 0 ? args.q_map.map : args.k_map.map,
                     warp == 0 ? args.q_norm : args.k_norm, warp == 0 ? args.q_scale : 1.0f);
      if (plan.frequencies != nullptr) {
        vector.Turn(shared->rotation);
      }
      vector.ForEach([&](int r, float x) { shared->SetVector(warp, r, x); });
    }
    if constexpr (kScalar) {
      log_decay = LogDecay(args.decay, head, head, raw_log);
      value *= ValueScale(args.decay, head, raw_log);
    }
    beta = Memory::kHasBeta ? WriteStrength(args, raw_beta) : 1;
  }

  // Of the step's token; vectors and log decays of channels go to shared memory.
  __device__ void Load(const AdvanceCall& call, const DecodePlan& plan, int token, int column,
                       DecodeShared<Shape>* shared) {
    const AdvanceArgs& args = call.args;
    const MemoryShape& shape = args.shape;
    const uint32_t head = blockIdx.y;
    const uint64_t token_head = TokenHead(token, shape.heads, head);
    const uint64_t query_head =
        TokenHead(token, shape.query_heads, plan.heads_a_query.Divide(head));
    const uint64_t key_head = TokenHead(token, shape.key_heads, plan.heads_a_key.Divide(head));
    const uint64_t value_head =
        TokenHead(token, shape.value_heads, plan.heads_a_value.Divide(head));
    if constexpr (kScalar) {
      log_decay = args.log_decay[token_head];
    }
    beta = Memory::kHasBeta ? args.beta[token_head] : 1;
    value = column < shape.value_dim ? args.v[value_head * static_cast<uint32_t>(shape.value_dim) +
                                              static_cast<uint32_t>(column)]
                                     : 0;
    ForKeyRows<Shape>([&](int r) {
      shared->SetVector(0, r, args.q[query_head * kDim + r]);
#pragma unroll
      for (int n = 0; n < T::kEntries; ++n) {
        shared->SetVector(1 + n, r, args.k[(key_head * T::kEntries + n) * kDim + r]);
      }
#pragma unroll
      for (int own = 0; own < T::kOwnKeys; ++own) {
        shared->SetVector(1 + T::kEntries + own, r,
                          args.e[(token_head * T::kOwnKeys + own) * kDim + r]);
      }
      if (T::kChannels) {
        shared->log[r] = args.log_decay[token_head * kDim + r];
      }
    });
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_INPUTS_CUH_
