// The unit-triangular system of a chunk's erases: see T in kernels/cuda/prefill.cuh. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_TRIANGLE_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_TRIANGLE_CUH_

#include "kernels/cuda/prefill.cuh"

namespace evenflow {

// In shared memory. Blocks of 16 x 16: those on the diagonal are inverted by substitution, what is
// below them follows by products, (1 + M)^-1_ij = -(1 + M)^-1_ii sum_{j <= k < i} M_ik (1 +
// M)^-1_kj.
struct alignas(16) Triangle {
  static constexpr int kRow = kChunk + 8;  // pairs of 4 rows lie in separate banks

  float m[kChunk][kRow];        // M, 0 on the diagonal and above it
  float inverse[kChunk][kRow];  // (1 + M)^-1, but for the blocks above the diagonal

  // Entries (i, j) and (i, j + 1) of T.
  __device__ float2 Pair(int i, int j, const float (&beta)[kChunk]) const {
    return make_float2(inverse[i][j] * beta[j], inverse[i][j + 1] * beta[j + 1]);
  }

  // Fills `inverse`: each of 4 warps, which then have to wait. Warp w has written rows [16 w, 16 w
  // + 16) of M. Operands of products have kParts parts (kernels/cuda/mma.cuh).
  template <int kParts>
  __device__ void Invert(int warp) {
    __syncwarp();
    InvertDiagonal(warp);
    __syncthreads();
    InvertColumns<kParts>(warp);
  }

 private:
  // Lanes c and c + 16 solve (1 + M) x = e_c.
  __device__ void InvertDiagonal(int block) {
    const int first = kMma * block;
    const int c = static_cast<int>(threadIdx.x) % kMma;
    float x[kMma];
#pragma unroll
    for (int i = 0; i < kMma; ++i) {
      x[i] = i == c ? 1 : 0;
#pragma unroll
      for (int j = 0; j < i; j += 4) {
        const auto row = *reinterpret_cast<const float4*>(&m[first + i][first + j]);
        const float entries[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
        for (int e = 0; e < 4 && j + e < i; ++e) {
          x[i] = fmaf(-entries[e], x[j + e], x[i]);
        }
      }
      inverse[first + i][first + c] = x[i];
    }
  }

  // sums += A X^T for the block (i, k) of X.
  template <int kParts>
  static __device__ void AddProduct(const MmaA<kParts>& a, const float (&x)[kChunk][kRow], int i,
                                    int k, float (&sums)[2][4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const float* const row = &x[kMma * i + 8 * tile + lane / 4][kMma * k + lane % 4 * 2];
      MmaOfParts(a,
                 SplitB<kParts>(*reinterpret_cast<const float2*>(row),
                                *reinterpret_cast<const float2*>(row + 8)),
                 sums[tile]);
    }
  }

  // The blocks of 16 columns that are below the diagonal, from the upper to the lower. They are
  // transposed, so that each is an operand of the products for the next ones as it is.
  template <int kParts>
  __device__ void InvertColumns(int j) {
    const int g = static_cast<int>(threadIdx.x) % 32 / 4, t = static_cast<int>(threadIdx.x) % 4;
    MmaA<kParts> done[kMmas - 1];  // blocks (j, j), (j + 1, j), ...
    float x[2][4];
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      x[e / 4][e % 4] = inverse[kMma * j + e / 4 * 8 + 2 * t + e % 2][kMma * j + g + e % 4 / 2 * 8];
    }
    done[0] = SplitA<kParts>(x[0], x[1]);
#pragma unroll
    for (int n = 1; n < kMmas; ++n) {
      const int i = j + n;
      if (i >= kMmas) {
        return;
      }
      float sums[2][4] = {};
#pragma unroll
      for (int d = 0; d < n; ++d) {
        AddProduct<kParts>(done[d], m, i, j + d, sums);
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        sums[e / 4][e % 4] = -sums[e / 4][e % 4];
        x[e / 4][e % 4] = 0;
      }
      AddProduct<kParts>(SplitA<kParts>(sums[0], sums[1]), inverse, i, i, x);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        inverse[kMma * i + e / 4 * 8 + 2 * t + e % 2][kMma * j + g + e % 4 / 2 * 8] =
            x[e / 4][e % 4];
      }
      if (n + 1 < kMmas) {
        done[n] = SplitA<kParts>(x[0], x[1]);
      }
    }
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_TRIANGLE_CUH_
