// The step being worked on, as the CPU's operations see it. Owned by the CPU backend.
#ifndef EVENFLOW_KERNELS_CPU_STEP_H_
#define EVENFLOW_KERNELS_CPU_STEP_H_

#include <cstdint>
#include <vector>

#include "kernels/cpu/worker_pool.h"
#include "kernels/operations.h"
#include "kernels/precondition.h"
#include "kernels/rwkv7_operations.h"
#include "kernels/step.h"
#include "kernels/window_attention.h"

namespace evenflow {

struct CpuStep {
  std::vector<Row> rows;
  std::vector<int32_t> tokens;        // [token]
  std::vector<int32_t> token_row;     // [token], index into rows
  std::vector<int64_t> positions;     // [token], absolute
  std::vector<int32_t> logit_tokens;  // [logit]
  std::vector<SamplingRow> sampling;  // [logit]
  StepOutput output;

  // Of a row and a memory layer.
  StateHealth& health(size_t row, int memory_layer) {
    return output.health[row * static_cast<size_t>(output.memory_layers) +
                         static_cast<size_t>(memory_layer)];
  }
};

// One function an operation, each in the file of its name. `args` as documented in
// kernels/backend.h.
void CpuEmbed(const EmbedArgs& args, const CpuStep& step, WorkerPool& pool);
void CpuMatMul(const MatMulArgs& args, const CpuStep& step, WorkerPool& pool);
void CpuNorm(const NormArgs& args, const CpuStep& step, WorkerPool& pool);
void CpuTokenMix(const TokenMixArgs& args, const CpuStep& step, WorkerPool& pool);
void CpuTokenShift(const TokenShiftArgs& args, const CpuStep& step, WorkerPool& pool);
void CpuMemoryInputs(const MemoryInputsArgs& args, const CpuStep& step, WorkerPool& pool);
// Also fills step.output.health of args.memory_layer.
void CpuPrecondition(const PreconditionArgs& args, CpuStep& step, WorkerPool& pool);
void CpuGeneralizedDeltaKeys(const GeneralizedDeltaKeysArgs& args, const CpuStep& step,
                             WorkerPool& pool);
void CpuMemoryOutput(const MemoryOutputArgs& args, const CpuStep& step, WorkerPool& pool);
void CpuWindowAttention(const WindowAttentionArgs& args, const CpuStep& step, WorkerPool& pool);
void CpuMlpActivation(const MlpActivationArgs& args, const CpuStep& step, WorkerPool& pool);
// Also fills step.output.health of args.memory_layer.
void CpuAdvance(const AdvanceArgs& args, CpuStep& step, WorkerPool& pool);
// Fills step.output.sampled.
void CpuSample(const SampleArgs& args, CpuStep& step, WorkerPool& pool);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_STEP_H_
