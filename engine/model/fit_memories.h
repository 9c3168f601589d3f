// What memories are given once the window that was asked for is known. Loading thread.
#ifndef EVENFLOW_ENGINE_MODEL_FIT_MEMORIES_H_
#define EVENFLOW_ENGINE_MODEL_FIT_MEMORIES_H_

#include "engine/model/backend_memory.h"
#include "engine/model/plan.h"

#include "absl/status/status.h"

namespace evenflow {

// The nearest window that all memories of the model can use: not shorter than `asked`.
Window FitWindow(const ModelPlan& plan, Window asked);

// Chooses the nodes of power laws for this window and uploads them. RESOURCE_EXHAUSTED.
absl::Status FitPowerLaws(const Window& window, BackendMemory& memory, ModelPlan& plan);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_FIT_MEMORIES_H_
