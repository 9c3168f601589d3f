// Products on tensor cores (mma.sync m16n8k16, PTX ISA, "Matrix fragments for mma.m16n8k16"). For
// .cu files of sm_80 and later. A warp; lane = 4 g + t.
//
// An operand in fp32 is cut into kParts numbers in bf16 that sum to it: 1 rounds it to 2^-9, 3 are
// its 24 bits. A product of operands in 3 parts leaves out what is below 2^-24 of it.
//
//     A [16, 16]  a0 = A[g][2t, 2t+1], a1 = A[g+8][2t, 2t+1], a2 = A[g][2t+8, 2t+9], a3 =
//     A[g+8][..] B [16, 8]   b0 = B[2t, 2t+1][g], b1 = B[2t+8, 2t+9][g] D [16, 8]   d0, d1 =
//     D[g][2t, 2t+1], d2, d3 = D[g+8][2t, 2t+1]
//
// So two adjacent Ds are the A of the next product, without a move.
#ifndef EVENFLOW_KERNELS_CUDA_MMA_CUH_
#define EVENFLOW_KERNELS_CUDA_MMA_CUH_

#include <cstddef>
#include <cstdint>

namespace evenflow {

template <int kParts>
struct MmaA {
  uint32_t part[kParts][4];
};

// B for two adjacent groups of 8 columns. In memory a tile is, for each part, 4 matrices of 8
// columns and 8 numbers of the inner dimension, a column after the other, 16 bytes each: b0, b1 of
// the first group, then of the second. wgmma reads them as they are (kernels/cuda/wgmma.cuh).
inline constexpr int kTileBytes = 4 * 8 * 16;  // of one part

template <int kParts>
__device__ inline void SplitPair(float x, float y, uint32_t (&parts)[kParts]) {
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(parts[p]) : "f"(y), "f"(x));
    x -= __uint_as_float(parts[p] << 16);
    y -= __uint_as_float(parts[p] & 0xffff0000u);
  }
}

template <int kParts>
__device__ inline MmaA<kParts> SplitA(const float (&left)[4], const float (&right)[4]) {
  MmaA<kParts> a;
  uint32_t parts[kParts];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float(&d)[4] = i < 2 ? left : right;
    SplitPair<kParts>(d[i % 2 * 2], d[i % 2 * 2 + 1], parts);
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      a.part[p][i] = parts[p];
    }
  }
  return a;
}

// Writes this lane's pairs {b0, b1 of the first 8 columns, b0, b1 of the second} of a tile.
template <int kParts>
__device__ inline void StoreTile(std::byte* tile, const float2 (&pairs)[4]) {
  uint32_t parts[4][kParts];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    SplitPair<kParts>(pairs[i].x, pairs[i].y, parts[i]);
  }
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      reinterpret_cast<uint32_t*>(tile + p * kTileBytes)[32 * i + threadIdx.x % 32] = parts[i][p];
    }
  }
}

__device__ inline void Mma(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (&d)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <int kParts>
struct MmaB {
  uint32_t part[kParts][2];
};

// `low` is B[2t, 2t+1][g], `high` B[2t+8, 2t+9][g].
template <int kParts>
__device__ inline MmaB<kParts> SplitB(float2 low, float2 high) {
  uint32_t first[kParts], second[kParts];
  SplitPair<kParts>(low.x, low.y, first);
  SplitPair<kParts>(high.x, high.y, second);
  MmaB<kParts> b;
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    b.part[p][0] = first[p];
    b.part[p][1] = second[p];
  }
  return b;
}

// D += A B.
template <int kParts>
__device__ inline void MmaOfParts(const MmaA<kParts>& a, const MmaB<kParts>& b, float (&d)[4]) {
#pragma unroll
  for (int p = kParts - 1; p >= 0; --p) {  // small products first
#pragma unroll
    for (int q = kParts - 1 - p; q >= 0; --q) {
      Mma(a.part[q], b.part[p][0], b.part[p][1], d);
    }
  }
}

// b0, b1 of both groups of a tile in shared memory, of one part. The whole warp.
__device__ inline void LoadTile(const std::byte* tile, uint32_t (&b)[4]) {
  const auto address =
      static_cast<uint32_t>(__cvta_generic_to_shared(tile)) + threadIdx.x % 32 * 16;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address));
}

// D += A B, for the columns of a tile in shared memory.
template <int kParts>
__device__ inline void MmaOfTile(const MmaA<kParts>& a, const std::byte* tile, float (&first)[4],
                                 float (&second)[4]) {
#pragma unroll
  for (int p = kParts - 1; p >= 0; --p) {  // small products first
    uint32_t b[4];
    LoadTile(tile + p * kTileBytes, b);
#pragma unroll
    for (int q = kParts - 1 - p; q >= 0; --q) {
      Mma(a.part[q], b[0], b[1], first);
      Mma(a.part[q], b[2], b[3], second);
    }
  }
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_MMA_CUH_
