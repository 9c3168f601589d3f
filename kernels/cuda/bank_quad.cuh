// A quad of columns of a head's banks: where its elements lie. For .cu files.
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
        last_row_(width_ > 0 ? shape.key_dim : 0),
        state_(state),
        bank_elements_(int64_t{shape.key_dim} * shape.value_dim),
        is_vector_(width_ == kQuad && bank_elements_ % kQuad == 0 &&
                   reinterpret_cast<uintptr_t>(state) % (kQuad * sizeof(State)) == 0) {}

  // Whether Row's elements of every lane of the warp that has any are loaded at once.
  __device__ bool AllVectors() const { return __all_sync(kWarp, is_vector_ || width_ <= 0) != 0; }

  // Rows first + 8 n, as far as there are any, all on their way at once; zeros beyond. REQUIRES:
  // AllVectors().
  template <int kRows>
  __device__ void LoadRaw(int bank, int first, RawQuad<State> (&raw)[kRows]) const {
    const State* const from = state_ + bank * bank_elements_ + first * kQuad;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      raw[n] = {};
      if (first + n * kQuadLanes < last_row_) {
        raw[n] = *reinterpret_cast<const RawQuad<State>*>(from + n * kQuadLanes * kQuad);
      }
    }
  }

  // The same of any lane.
  template <int kRows>
  __device__ void Load(int bank, int first, float4 (&s)[kRows]) const {
    if (AllVectors()) {
      RawQuad<State> raw[kRows];
      LoadRaw(bank, first, raw);
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        s[n] = ToFloats(raw[n]);
      }
      return;
    }
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const int r = first + n * kQuadLanes;
      State of[kQuad];
#pragma unroll
      for (int c = 0; c < kQuad; ++c) {
        of[c] = r < last_row_ && c < width_ ? Row(bank, r)[c] : FromFloat<State>(0);
      }
      s[n] = make_float4(ToFloat(of[0]), ToFloat(of[1]), ToFloat(of[2]), ToFloat(of[3]));
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

  const int width_;     // <= 0: the lane has none
  const int last_row_;  // of those it has
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

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_BANK_QUAD_CUH_
