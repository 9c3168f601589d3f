// The forward pass of a planned model: buffers and places once, then a straight line of operations.
// Engine thread.
#ifndef EVENFLOW_ENGINE_MODEL_FORWARD_H_
#define EVENFLOW_ENGINE_MODEL_FORWARD_H_

#include <cstddef>

#include "engine/model/backend_memory.h"
#include "engine/model/model.h"
#include "engine/model/plan.h"

#include "absl/status/status.h"

namespace evenflow {

// Gives each layer its place in a session's slot: the memory and the convolution's ring, or the
// ring of keys and values. Returns the slot's bytes, a multiple of 64; *layers gets what each layer
// takes of them.
size_t PlaceStates(const ModelOptions& options, ModelPlan& plan, std::vector<LayerInfo>* layers);

// Allocates the activations of one step and points the plan's operations at them.
// RESOURCE_EXHAUSTED.
absl::Status BindBuffers(const ModelOptions& options, BackendMemory& memory, ModelPlan& plan);

// Enqueues all operations of the step that `backend` was given. Leaves logits in plan.head.y.
void RunForward(const Slots& slots, ModelPlan& plan, Backend& backend);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_FORWARD_H_
