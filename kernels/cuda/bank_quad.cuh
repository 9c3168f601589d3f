// A quad of columns of a head's banks: where its elements lie, and what erasing makes of the
// entries that go into one of them. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_BANK_QUAD_CUH_
#define EVENFLOW_KERNELS_CUDA_BANK_QUAD_CUH_

#include "kernels/cuda/banked_plan.cuh"

namespace evenflow {

template <class State>
class BankQuad {
 public:
  // `state`: of bank 0, from `column` on, the quad's first.
  __device__ BankQuad(const MemoryShape& shape, int column, State* state)
      : width_(QuadWidth(shape.value_dim, column)),
        state_(state),
        bank_elements_(int64_t{shape.key_dim} * shape.value_dim),
        is_vector_(width_ == kQuad && bank_elements_ % kQuad == 0 &&
                   reinterpret_cast<uintptr_t>(state) % (kQuad * sizeof(State)) == 0) {}

  __device__ float4 Load(int bank, int r) const {
    const State* from = Row(bank, r);
    if (is_vector_) {
      return LoadQuad(from);
    }
    float s[kQuad] = {};
    for (int c = 0; c < width_; ++c) {
      s[c] = ToFloat(from[c]);
    }
    return make_float4(s[0], s[1], s[2], s[3]);
  }

  __device__ void Store(int bank, int r, float4 quad, HealthPart* part) const {
    State* to = Row(bank, r);
    const float s[kQuad] = {quad.x, quad.y, quad.z, quad.w};
    if (is_vector_) {
      StoreQuad(quad, to);
    }
    for (int c = 0; c < width_; ++c) {
      if (!is_vector_) {
        to[c] = FromFloat<State>(s[c]);
      }
      part->Observe(s[c]);
    }
  }

  // What a stored element keeps of it.
  __device__ static float4 Round(const float (&s)[kQuad]) {
    return make_float4(Rounded<State>(s[0]), Rounded<State>(s[1]), Rounded<State>(s[2]),
                       Rounded<State>(s[3]));
  }

 private:
  __device__ State* Row(int bank, int r) const {
    return state_ + bank * bank_elements_ + r * width_;
  }

  const int width_;  // <= 0: the lane has none
  State* const state_;
  const int64_t bank_elements_;
  const bool is_vector_;
};

__device__ inline float Column(const float4& quad, int c) {
  return reinterpret_cast<const float*>(&quad)[c];
}

// u_j = beta_j (v_j - e^{l_j} S_0^T k_j - sum_{i<j} e^{l_j - l_i} (k_i . k_j) u_i) for the bank
// in `work`, without v_j in the banks that do not take the block in. Two lanes have a column.
__device__ inline void EraseEntries(const BankedPlan& plan, const BankedShared& shared,
                                    bool takes) {
  constexpr int kAtOnce = 4;
  const int quad_lane = static_cast<int>(threadIdx.x) % kQuadLanes;
  const int c = quad_lane / 2;
  for (int first = 0; first < plan.commit; first += kAtOnce) {
    float read[kAtOnce][kQuad] = {};
    for (int i = 0, r = quad_lane; r < plan.dim; ++i, r += kQuadLanes) {
      const float4 s = shared.work[32 * i];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        AddScaled(shared.keys[Least(first + n, plan.commit - 1) * plan.dim + r], s, read[n]);
      }
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int j = first + n;
      if (j < plan.commit) {
        float u = shared.scales[j] * SumQuad(read[n]);
        for (int i = 0; i < j; ++i) {
          u = fmaf(shared.gram[j * plan.commit + i], Column(shared.erased[i], c), u);
        }
        if (takes) {
          u = fmaf(shared.strengths[j], Column(shared.values[j], c), u);
        }
        if (quad_lane % 2 == 0) {
          reinterpret_cast<float*>(&shared.erased[j])[c] = u;
        }
        __syncwarp();
      }
    }
  }
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_BANK_QUAD_CUH_
