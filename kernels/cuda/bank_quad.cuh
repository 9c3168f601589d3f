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
      : rows_(shape.key_dim),
        width_(QuadWidth(shape.value_dim, column)),
        state_(state),
        bank_elements_(int64_t{shape.key_dim} * shape.value_dim),
        is_vector_(width_ == kQuad && bank_elements_ % kQuad == 0 &&
                   reinterpret_cast<uintptr_t>(state) % (kQuad * sizeof(State)) == 0) {}

  // Rows first + 8 n, as far as there are any, all on their way at once; zeros beyond.
  template <int kRows>
  __device__ void Load(int bank, int first, float4 (&s)[kRows]) const {
    if (is_vector_) {
      RawQuad<State> raw[kRows];
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        raw[n] = {};
        if (first + n * kQuadLanes < rows_) {
          raw[n] = *reinterpret_cast<const RawQuad<State>*>(Row(bank, first + n * kQuadLanes));
        }
      }
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        s[n] = ToFloats(raw[n]);
      }
      return;
    }
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      float row[kQuad] = {};
      for (int c = 0; first + n * kQuadLanes < rows_ && c < width_; ++c) {
        row[c] = ToFloat(Row(bank, first + n * kQuadLanes)[c]);
      }
      s[n] = make_float4(row[0], row[1], row[2], row[3]);
    }
  }

  // The same of what the bank holds before entries come: its own, if it is live, and the first
  // `carried` banks.
  template <int kRows>
  __device__ void Gather(int bank, int first, bool is_live, int carried, float4 (&s)[kRows]) const {
    if (is_live) {
      Load(bank, first, s);
    } else {
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        s[n] = make_float4(0, 0, 0, 0);
      }
    }
    for (int from = 0; from < carried; ++from) {
      float4 more[kRows];
      Load(from, first, more);
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        float sum[kQuad] = {s[n].x, s[n].y, s[n].z, s[n].w};
        AddScaled(1, more[n], sum);
        s[n] = Round(sum);
      }
    }
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

  const int rows_;   // key channels
  const int width_;  // <= 0: the lane has none
  State* const state_;
  const int64_t bank_elements_;
  const bool is_vector_;
};

// sum += scale x_m s[m] for four rows.
__device__ inline void AddRows(float4 x, float scale, const float4* s, float (&sum)[kQuad]) {
  AddScaled(scale * x.x, s[0], sum);
  AddScaled(scale * x.y, s[1], sum);
  AddScaled(scale * x.z, s[2], sum);
  AddScaled(scale * x.w, s[3], sum);
}

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
    for (int i = 0; i < plan.LaneRows(); i += 4) {
      float4 s[4];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        s[m] = shared.work[32 * (i + m)];
      }
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        AddRows(shared.Key(plan, Least(first + n, plan.commit - 1), i), 1, s, read[n]);
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
