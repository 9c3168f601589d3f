// The part of MemoryInputs that gives the level weights of log-linear attention, as
// kernels/level_weights.h has them. Enqueues on the step's stream; engine thread.
#ifndef EVENFLOW_KERNELS_CUDA_LEVEL_WEIGHTS_H_
#define EVENFLOW_KERNELS_CUDA_LEVEL_WEIGHTS_H_

#include "kernels/cuda/step.h"

namespace evenflow {

// REQUIRES: args.level_weights.column >= 0.
void CudaLevelWeights(const MemoryInputsArgs& args, const CudaStep& step);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_LEVEL_WEIGHTS_H_
