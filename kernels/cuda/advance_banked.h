// What kernels/cuda/advance.cu needs of advance_banked.cu.
#ifndef EVENFLOW_KERNELS_CUDA_ADVANCE_BANKED_H_
#define EVENFLOW_KERNELS_CUDA_ADVANCE_BANKED_H_

#include <cstddef>

#include "kernels/cuda/advance.cuh"

namespace evenflow {

// Enqueues all rows that the call takes, of banked memories. `scratch`: device memory.
void AdvanceBanks(const AdvanceCall& call, const CudaStep& step, std::byte* scratch);

// Bytes that it needs. REQUIRES: args.shape, of banked memories.
size_t ScratchOfBanks(const AdvanceArgs& args, const CudaStep& step);

// Bytes of shared memory that a block of it needs at least. REQUIRES: args.shape.
size_t LeastSharedOfBanks(const AdvanceArgs& args);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_ADVANCE_BANKED_H_
