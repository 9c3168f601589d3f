// Where each layer's state lies in a session's slot.
#include "engine/model/forward.h"

namespace evenflow {
namespace {

constexpr size_t kAlignment = 64;  // bytes, of each part of a slot

size_t AlignUp(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// The bytes that a layer's memory takes at `offset` of a slot; `planes` counts those of all layers,
// in the order of Model::state_planes.
size_t PlaceMemory(const ModelOptions& options, size_t offset, int* planes, MixerPlan& mixer) {
  AdvanceArgs& advance = mixer.advance;
  advance.window = options.window;
  advance.state_dtype = options.state_dtype;
  advance.memory_layer = (*planes)++;
  advance.layer_offset = offset;
  size_t bytes = AlignUp(
      LayoutOf(advance.memory, mixer.inputs.shape, options.window, options.state_dtype).bytes);
  if (mixer.precondition.has_value()) {
    PreconditionArgs& precondition = *mixer.precondition;
    precondition.window = options.window;
    precondition.memory_layer = (*planes)++;
    precondition.layer_offset = offset + bytes;
    bytes += AlignUp(LayoutOf(precondition.preconditioner, options.window).bytes);
  }

  TokenMixArgs& mix = mixer.token_mix;
  mix.rollback = options.window.rollback;
  mix.ring_offset = offset + bytes;
  if (mix.channels > 0 && mix.taps > 1) {
    bytes += AlignUp(static_cast<size_t>(mix.taps - 1 + mix.rollback) *
                     static_cast<size_t>(mix.channels) * sizeof(float));
  }
  return bytes;
}

size_t PlaceAttention(const ModelOptions& options, size_t offset, WindowAttentionArgs& attention) {
  attention.rollback = options.window.rollback;
  attention.ring_offset = offset;
  return AlignUp(attention.ring_bytes());
}

LayerInfo Describe(const MixerPlan& mixer) {
  LayerInfo info;
  if (mixer.attention.has_value()) {
    const WindowAttentionArgs& attention = *mixer.attention;
    info.memory = "window_attention";
    info.shape = {attention.key_heads, attention.heads,    attention.key_heads,
                  attention.key_heads, attention.head_dim, attention.head_dim};
    info.attention_window = attention.window;
  } else {
    info.memory = Name(mixer.advance.memory);
    info.shape = mixer.inputs.shape;
    info.banks = BankCount(mixer.advance.memory, info.shape, mixer.advance.window);
    info.detail = mixer.detail;
  }
  if (mixer.precondition.has_value()) {
    const PreconditionArgs& precondition = *mixer.precondition;
    info.mode = Name(precondition.preconditioner.mode);
    info.preconditioner_bytes =
        static_cast<int64_t>(LayoutOf(precondition.preconditioner, precondition.window).bytes);
  }
  return info;
}

// The bytes that the ring of a token shift takes at `offset`.
size_t PlaceShift(const ModelOptions& options, size_t offset, TokenShiftArgs& shift) {
  shift.rollback = options.window.rollback;
  shift.ring_offset = offset;
  return AlignUp(static_cast<size_t>(shift.ring()) * static_cast<size_t>(shift.channels) *
                 sizeof(float));
}

}  // namespace

size_t PlaceStates(const ModelOptions& options, ModelPlan& plan, std::vector<LayerInfo>* layers) {
  size_t offset = 0;
  int planes = 0;
  for (LayerPlan& layer : plan.layers) {
    MixerPlan& mixer = layer.mixer;
    size_t bytes = mixer.attention.has_value() ? PlaceAttention(options, offset, *mixer.attention)
                                               : PlaceMemory(options, offset, &planes, mixer);
    bytes += PlaceShift(options, offset + bytes, mixer.shift);
    if (layer.mlp.has_value()) {
      bytes += PlaceShift(options, offset + bytes, layer.mlp->shift);
    }
    layers->push_back(Describe(mixer));
    layers->back().state_bytes = static_cast<int64_t>(bytes);
    offset += bytes;
  }
  return offset;
}

}  // namespace evenflow
