// What a token brings to a head, as a block of the decode kernel loads it.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_INPUTS_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_INPUTS_CUH_

#include "kernels/cuda/decode_plan.cuh"

namespace evenflow {

// Calls visit(r) for this thread's part of the key_dim rows.
template <class Shape, class Visit>
__device__ inline void ForKeyRows(const Visit& visit) {
  constexpr int kDim = Shape::kKeyDim, kThreads = Shape::kThreads;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < (kDim + kThreads - 1) / kThreads; ++i) {
    if (kDim % kThreads == 0 || thread + kThreads * i < kDim) {
      visit(thread + kThreads * i);
    }
  }
}

// The index of a head of the step's token, in an array of so many a token.
__device__ inline uint32_t TokenHead(int token, int heads, uint32_t head) {
  return static_cast<uint32_t>(token) * static_cast<uint32_t>(heads) + head;
}

template <class Shape>
struct DecodeInputs {
  using Memory = typename Shape::Memory;
  using T = typename Shape::T;
  static constexpr int kDim = Shape::kKeyDim;

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
    if constexpr (Memory::kDecay == Decay::kConstant) {
      log_decay = args.log_decay[head];
    } else if constexpr (Memory::kDecay == Decay::kScalar) {
      log_decay = args.log_decay[token_head];
    }
    beta = Memory::kHasBeta ? args.beta[token_head] : 1;
    value = column < shape.value_dim ? args.v[value_head * static_cast<uint32_t>(shape.value_dim) +
                                              static_cast<uint32_t>(column)]
                                     : 0;
    ForKeyRows<Shape>([&](int r) {
      shared->vectors[0][r] = args.q[query_head * kDim + r];
#pragma unroll
      for (int n = 0; n < T::kEntries; ++n) {
        shared->vectors[1 + n][r] = args.k[(key_head * T::kEntries + n) * kDim + r];
      }
#pragma unroll
      for (int own = 0; own < T::kOwnKeys; ++own) {
        shared->vectors[1 + T::kEntries + own][r] =
            args.e[(token_head * T::kOwnKeys + own) * kDim + r];
      }
      if (T::kChannels) {
        shared->log[r] = args.log_decay[token_head * kDim + r];
      }
    });
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_INPUTS_CUH_
