// A block of positions that is taken into a warp's tile of a bank, 16 columns of all rows in shared
// memory, by products on tensor cores:
//     S <- d S + sum_j (c_j k_j) u_j^T,  u_j = v'_j + S_0^T k'_j
// where entries that do not erase have u = v, and others k'_j = -sum_i T_ji e^{l_i} k_i and v'_j =
// sum_i T_ji v_i; T is the inverse of the triangle of the block's entries (bank_block_prepare.cuh).
// For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_BANK_BLOCK_CUH_
#define EVENFLOW_KERNELS_CUDA_BANK_BLOCK_CUH_

#include "kernels/cuda/banked_plan.cuh"
#include "kernels/cuda/mma_tf32.cuh"

namespace evenflow {

// kExact: elements of the tile have 11 bits at most.
template <bool kErases, bool kExact>
class BankBlock {
 public:
  __device__ BankBlock(const BankedPlan& plan, const BankedShared& shared)
      : plan_(plan),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % 32),
        tile_(shared.tile + lane_ / 8 * plan.TileStride() + lane_ % 4 * 2 * kQuad +
              lane_ / 4 % 2 * 2) {}

  // value(j, c): of entry j of the block and column c of the warp's.
  template <class Value>
  __device__ void SetValues(const Value& value) const {
    const int g = lane_ / 4, t = lane_ % 4;
    float* const raw = shared_.tile;  // [entry, column], if led through T
    const int entries = plan_.Groups() * kGroup;
    for (int first = 0; first < entries; first += kGroup) {
      float v[8];  // all on their way at once
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const int j = first + (kErases ? lane_ / 16 + 2 * n : 2 * t + n / 4 * 8 + n / 2 % 2);
        v[n] = j < plan_.commit ? value(j, kErases ? lane_ % 16 : 2 * g + n % 2) : 0;
      }
      if constexpr (kErases) {
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          raw[first * kWarpColumns + 32 * n + lane_] = v[n];
        }
      } else {
        float4* const to = shared_.values + first / 8 * 32 + lane_;
        to[0] = make_float4(v[0], v[1], v[2], v[3]);
        to[32] = make_float4(v[4], v[5], v[6], v[7]);
      }
    }
    __syncwarp();
    for (int first = 0; kErases && first < entries; first += 8) {
      const float *const t0 = shared_.inverse + (first + 2 * t) * (entries + 1), *const t1 =
                                                                                     t0 + entries +
                                                                                     1;
      float4 v = make_float4(0, 0, 0, 0);
#pragma unroll 4
      for (int i = 0; i < first + 8; ++i) {
        const float2 of = *reinterpret_cast<const float2*>(raw + i * kWarpColumns + 2 * g);
        v.x = fmaf(t0[i], of.x, v.x);
        v.y = fmaf(t0[i], of.y, v.y);
        v.z = fmaf(t1[i], of.x, v.z);
        v.w = fmaf(t1[i], of.y, v.w);
      }
      shared_.values[first / 8 * 32 + lane_] = v;
    }
    __syncwarp();
  }

  // The warp's tile has S, written before __syncwarp().
  __device__ void TakeIn(int bank, bool takes) const {
    if constexpr (kErases) {
      for (int group = 0; group < plan_.Groups(); ++group) {
        Erase(group, takes);
      }
    }
    for (int group = 0; group < plan_.Groups(); ++group) {
      Fold(bank, group);
    }
    __syncwarp();
  }

 private:
  using Operand = Tf32Parts<4>;

  // Of an octet of rows: columns 2 g, 2 g + 1 of rows 2 t and 2 t + 1.
  __device__ float2* Pair(int octet, int n) const {
    return reinterpret_cast<float2*>(tile_ + (octet * kQuadLanes + n) * kQuad);
  }

  template <bool kRounded>
  __device__ static Operand Split(float4 x) {
    Operand parts;
    parts.template Set<kRounded>(0, x.x);
    parts.template Set<kRounded>(1, x.y);
    parts.template Set<kRounded>(2, x.z);
    parts.template Set<kRounded>(3, x.w);
    return parts;
  }

  // u of a group's entries.
  __device__ void Erase(int group, bool takes) const {
    const float4* const keys = shared_.erasing + group * plan_.OperandFloats() / 4 + lane_;
    float d[2][4] = {}, small[2][4] = {};
#pragma unroll 2
    for (int octet = 0; octet < plan_.LaneRows(); ++octet) {
      const float2 s0 = *Pair(octet, 0), s1 = *Pair(octet, 1);
      const Operand s = Split<kExact>(make_float4(s0.x, s0.y, s1.x, s1.y));
      const Operand k = Split<true>(keys[32 * octet]);
      MmaOfParts<kExact>(s, k, 0, d[0], small[0]);
      MmaOfParts<kExact>(s, k, 1, d[1], small[1]);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int at = (2 * group + n) * 32 + lane_;
      const float4 v = takes ? shared_.values[at] : make_float4(0, 0, 0, 0);
      shared_.erased[at] =
          make_float4(v.x + (d[n][0] + small[n][0]), v.y + (d[n][2] + small[n][2]),
                      v.z + (d[n][1] + small[n][1]), v.w + (d[n][3] + small[n][3]));
    }
  }

  // S <- d S + sum (c_j k_j) u_j^T over a group's entries; d with the first.
  __device__ void Fold(int bank, int group) const {
    const float decay = group == 0 ? shared_.decays[bank] : 1;
    Operand u[2];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float4 of = (kErases ? shared_.erased : shared_.values)[(2 * group + n) * 32 + lane_];
      const int j = group * kGroup + 8 * n + lane_ % 4 * 2;
      const float c0 = j < plan_.commit ? shared_.entry_weights[j * plan_.banks + bank] : 0;
      const float c1 =
          j + 1 < plan_.commit ? shared_.entry_weights[(j + 1) * plan_.banks + bank] : 0;
      of.x *= c0, of.y *= c0, of.z *= c1, of.w *= c1;
      u[n] = Split<false>(of);
    }
    const float4* const keys = shared_.keys + group * plan_.OperandFloats() / 4 + lane_;
#pragma unroll 2
    for (int octet = 0; octet < plan_.LaneRows(); ++octet) {
      const Operand k = Split<true>(keys[32 * octet]);
      float d[4] = {}, small[4] = {};
      MmaOfParts<false>(u[0], k, 0, d, small);
      MmaOfParts<false>(u[1], k, 1, d, small);
      float2 *const s0 = Pair(octet, 0), *const s1 = Pair(octet, 1);
      const float2 old0 = *s0, old1 = *s1;
      *s0 = make_float2(fmaf(decay, old0.x, d[0] + small[0]), fmaf(decay, old0.y, d[2] + small[2]));
      *s1 = make_float2(fmaf(decay, old1.x, d[1] + small[1]), fmaf(decay, old1.y, d[3] + small[3]));
    }
  }

  const BankedPlan& plan_;
  const BankedShared& shared_;
  const int lane_;
  float* const tile_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_BANK_BLOCK_CUH_
