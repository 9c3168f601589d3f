// The unit-triangular system of a chunk's erases: see T in kernels/cuda/prefill.cuh. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_TRIANGLE_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_TRIANGLE_CUH_

#include "kernels/cuda/prefill.cuh"

namespace evenflow {

// In shared memory.
struct Triangle {
  float m[kChunk][kChunk + 4];  // M, 0 on the diagonal and above it
  float t[kChunk][kChunk + 1];  // T

  __device__ float2 Pair(int i, int j) const { return make_float2(t[i][j], t[i][j + 1]); }

  // Fills t: thread c solves (1 + M) x = beta_c e_c, 16 rows at a time. All threads of the block,
  // at least 64 of them, which then have to wait.
  __device__ void Solve(const float (&beta)[kChunk]) {
    const int c = static_cast<int>(threadIdx.x);
    for (int first = 0; c < kChunk && first < kChunk; first += kMma) {
      float x[kMma];
#pragma unroll
      for (int i = 0; i < kMma; ++i) {
        x[i] = first + i == c ? beta[c] : 0;
      }
      for (int j = c; j < first; ++j) {  // those above are 0
        const float above = t[j][c];
#pragma unroll
        for (int i = 0; i < kMma; ++i) {
          x[i] = fmaf(-m[first + i][j], above, x[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < kMma; ++i) {
#pragma unroll
        for (int j = 0; j < i; ++j) {
          x[i] = fmaf(-m[first + i][first + j], x[j], x[i]);
        }
        t[first + i][c] = x[i];
      }
    }
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_TRIANGLE_CUH_
