// The level weights of log-linear attention, see LevelWeightsArgs. Engine thread.
#ifndef EVENFLOW_KERNELS_CPU_LEVEL_WEIGHTS_H_
#define EVENFLOW_KERNELS_CPU_LEVEL_WEIGHTS_H_

#include "kernels/cpu/step.h"

namespace evenflow {

void LevelWeights(const MemoryInputsArgs& args, const CpuStep& step, WorkerPool& pool);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_LEVEL_WEIGHTS_H_
