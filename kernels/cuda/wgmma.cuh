// Products of warpgroups, asynchronous: PTX ISA, section "Asynchronous Warpgroup Level Matrix
// Multiply-Accumulate Operation". On sm_90a alone. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_WGMMA_CUH_
#define EVENFLOW_KERNELS_CUDA_WGMMA_CUH_

#include "kernels/cuda/copy_barrier.cuh"

namespace evenflow {

inline constexpr int kSwizzledBytes = 128;  // a row of an operand is as wide as swizzling allows

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Swizzled rows of 128 bytes, from `shared` on, as an operand of wgmma.
__device__ inline uint64_t OperandAt(const void* shared) {
  constexpr uint64_t kSwizzled = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{8 * kSwizzledBytes / 16} << 32;
  return kSwizzled | kEightRows | (SharedAddress(shared) & 0x3ffff) >> 4;
}

// s [64, n] += x [64, 16] w [n, 16]^T for 64 and 96 outputs, 8 of them after the other.
#define FOUR(i) "+f"(s[i][0]), "+f"(s[i][1]), "+f"(s[i][2]), "+f"(s[i][3])

__device__ inline void MultiplyAsync(uint64_t x, uint64_t w, float (&s)[8][4]) {
  asm volatile(
      "{\n"
      ".reg .pred adds;\n"
      "setp.eq.u32 adds, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
      "%9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, "
      "%27, %28, %29, %30, %31}, %32, %33, adds, 1, 1, 0, 0;\n"
      "}"
      : FOUR(0), FOUR(1), FOUR(2), FOUR(3), FOUR(4), FOUR(5), FOUR(6), FOUR(7)
      : "l"(x), "l"(w));
}

__device__ inline void MultiplyAsync(uint64_t x, uint64_t w, float (&s)[12][4]) {
  asm volatile(
      "{\n"
      ".reg .pred adds;\n"
      "setp.eq.u32 adds, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
      "%9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, "
      "%27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, "
      "%45, %46, %47}, %48, %49, adds, 1, 1, 0, 0;\n"
      "}"
      : FOUR(0), FOUR(1), FOUR(2), FOUR(3), FOUR(4), FOUR(5), FOUR(6), FOUR(7), FOUR(8), FOUR(9),
        FOUR(10), FOUR(11)
      : "l"(x), "l"(w));
}

#undef FOUR

#endif

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_WGMMA_CUH_
