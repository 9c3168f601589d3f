// Products of fp32 numbers on tensor cores by tf32 (mma.sync m16n8k8, PTX ISA, "Matrix fragments
// for mma.m16n8k8"). For .cu files of sm_80 and later. A warp; lane = 4 g + t.
//
//     A [16, 8]  a0 = A[g][t], a1 = A[g+8][t], a2 = A[g][t+4], a3 = A[g+8][t+4]
//     B [8, 8]   b0 = B[t][g], b1 = B[t+4][g]
//     D [16, 8]  d0, d1 = D[g][2t, 2t+1], d2, d3 = D[g+8][2t, 2t+1]
//
// A number is cut into two of 11 bits. What is left out of a product is below 2^-22 of it.
#ifndef EVENFLOW_KERNELS_CUDA_MMA_TF32_CUH_
#define EVENFLOW_KERNELS_CUDA_MMA_TF32_CUH_

#include <cstdint>

namespace evenflow {

// Tensor cores drop the last 13 bits.
inline constexpr uint32_t kTf32 = 0xffffe000u;

// To the 22 bits that two parts hold, whichever way it is cut.
__device__ inline float RoundToParts(float x) {
  return __uint_as_float((__float_as_uint(x) + 2) & ~3u);
}

template <int kCount>
struct Tf32Parts {
  uint32_t high[kCount], low[kCount];

  // kRounded: x is what RoundToParts returns.
  template <bool kRounded>
  __device__ void Set(int i, float x) {
    high[i] = (__float_as_uint(x) + (kRounded ? 0 : 0x1000u)) & kTf32;
    low[i] = __float_as_uint(__fsub_rn(x, __uint_as_float(high[i])));
  }
};

__device__ inline void MmaTf32(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (&d)[4]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// D += A B for one of the groups of 8 columns of B; `small` gets what is small. kExact: A has no
// low parts.
template <bool kExact>
__device__ inline void MmaOfParts(const Tf32Parts<4>& a, const Tf32Parts<4>& b, int group,
                                  float (&d)[4], float (&small)[4]) {
  const int i = 2 * group;
  MmaTf32(a.high, b.low[i], b.low[i + 1], small);
  if constexpr (!kExact) {
    MmaTf32(a.low, b.high[i], b.high[i + 1], small);
  }
  MmaTf32(a.high, b.high[i], b.high[i + 1], d);
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_MMA_TF32_CUH_
