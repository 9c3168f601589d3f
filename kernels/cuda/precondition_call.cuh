// What the kernel of VLA's stage (kernels/cuda/precondition.cu) is launched with, and how the heads
// of a row report the health of what they stored.
#ifndef EVENFLOW_KERNELS_CUDA_PRECONDITION_CALL_CUH_
#define EVENFLOW_KERNELS_CUDA_PRECONDITION_CALL_CUH_

#include "kernels/cuda/copy_barrier.cuh"
#include "kernels/cuda/quad.cuh"
#include "kernels/operations.h"
#include "kernels/precondition.h"
#include "kernels/step.h"

namespace evenflow {

inline constexpr int kPreconditionReads = 3;  // products with A that a token may need

inline constexpr int kStagedGroups = 4;  // of A's rows where it is staged, a warp each

// Whether a block keeps all of a head's A in shared memory.
constexpr bool IsStaged(int key_dim) {
  return key_dim == 64 || key_dim == 128;
}

struct PreconditionCall {
  PreconditionArgs args;
  PreconditionLayout layout;
  Window window;  // of A
  int rows_per_token;
  int entries;        // of the memory
  float leak;         // p
  float fold_growth;  // m of a whole block
  int groups;         // of A's rows, whose sums are added up in the end; a power of two
  const Row* rows;
  StateHealth* health;  // device, [row]: zero

  // Rows r of a whole block of tokens.
  __host__ __device__ int BlockRows() const { return window.commit * rows_per_token; }

  // Floats of a vector of key channels in shared memory: a multiple of a batch of A's rows.
  __host__ __device__ int SharedDim() const { return (args.preconditioner.key_dim + 7) / 8 * 8; }

  // Of a block, as PreconditionView has it.
  size_t SharedBytes() const {
    const int dim = args.preconditioner.key_dim;
    const int vectors = (2 + kPreconditionReads * groups) * SharedDim();
    return IsStaged(dim)
               ? sizeof(float) * static_cast<size_t>(dim * dim + vectors) + sizeof(CopyBarrier)
               : sizeof(float) * static_cast<size_t>(vectors + 2 * BlockRows());
  }
};

// Adds a warp's parts to the health of a row. The norm's last bits depend on the order of the
// warps; nothing is computed from it.
__device__ inline void AddHealth(HealthPart part, StateHealth* health) {
  part.SumLanes(32);
  if (threadIdx.x % 32 != 0) {
    return;
  }
  health->committed = true;
  atomicAdd(&health->non_finite, part.non_finite);
  // Floats that are not negative are in the order of their bits.
  atomicMax(reinterpret_cast<int*>(&health->max_abs), __float_as_int(part.max_abs));
  auto* const norm = reinterpret_cast<int*>(&health->norm);
  int found = __float_as_int(0.0f);
  for (int expected = found - 1; found != expected;) {
    expected = found;
    const float before = __int_as_float(expected);
    found = atomicCAS(norm, expected, __float_as_int(sqrtf(fmaf(before, before, part.square))));
  }
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PRECONDITION_CALL_CUH_
