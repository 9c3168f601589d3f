#include "engine/model/forward.h"

#include <algorithm>

namespace evenflow {
namespace {

constexpr size_t kAlignment = 64;      // bytes, of each part of a slot
constexpr int64_t kRowAlignment = 16;  // elements, of each activation row

size_t AlignUp(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// With the room that a device may use for more.
int64_t Padded(int64_t count) {
  return (count + kStepPadding - 1) / kStepPadding * kStepPadding;
}

// The largest width of each kind of activation over all layers, in elements a token.
struct Widths {
  int64_t projected = 0, key = 0, own_key = 0, raw_key = 0, query = 0, value = 0, decay = 0,
          heads = 0, levels = 0, read = 0, mixed = 0, mlp = 0;
};

int DecayChannels(const MixerPlan& mixer) {
  return DecayOf(mixer.advance.memory) == Decay::kChannel ? mixer.inputs.shape.key_dim : 1;
}

Widths WidthsOf(const ModelPlan& plan) {
  Widths widths;
  const auto grow = [](int64_t& width, int64_t needed) { width = std::max(width, needed); };
  for (const LayerPlan& layer : plan.layers) {
    const MemoryShape& shape = layer.mixer.inputs.shape;
    grow(widths.projected, layer.mixer.in_proj.w.rows);
    for (const InnerProjection& inner : layer.mixer.inner) {
      grow(widths.projected, inner.to + inner.matmul.w.rows);
    }
    grow(widths.query, int64_t{shape.query_heads} * shape.key_dim);
    const MemoryKind memory = layer.mixer.advance.memory;
    const int64_t key = int64_t{shape.key_heads} * shape.key_dim;
    grow(widths.key, key * EntryCount(memory));
    grow(widths.own_key, int64_t{shape.heads} * OwnKeyCount(memory) * shape.key_dim);
    grow(widths.raw_key, layer.mixer.precondition.has_value() ? key : 0);
    grow(widths.value, int64_t{shape.value_heads} * shape.value_dim);
    grow(widths.decay, int64_t{shape.heads} * DecayChannels(layer.mixer));
    grow(widths.heads, shape.heads);
    grow(widths.levels, int64_t{shape.heads} * shape.banks);
    grow(widths.read, int64_t{shape.output_heads()} * shape.value_dim);
    grow(widths.mixed, layer.mixer.out_proj.w.cols);
    grow(widths.mlp, layer.mlp.has_value() ? layer.mlp->activation.size : 0);
  }
  return widths;
}

// The activations of one step, used by all layers in turn.
struct Buffers {
  Matrix residual, normed, projected, mixed, gate_up, mlp, last, logits;
  float *q = nullptr, *k = nullptr, *e = nullptr, *v = nullptr, *log_decay = nullptr,
        *beta = nullptr, *level_weights = nullptr, *o = nullptr;
  float* raw_k = nullptr;  // before a preconditioner makes k of it
};

class BufferAllocator {
 public:
  explicit BufferAllocator(BackendMemory& memory) : memory_(memory) {}

  Matrix Rows(int64_t rows, int64_t width, DType dtype) {
    const int64_t stride = (width + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
    return {Allocate(static_cast<size_t>(rows * stride) * ByteSize(dtype)), dtype, stride};
  }

  float* Floats(int64_t count) {
    return static_cast<float*>(Allocate(static_cast<size_t>(count) * sizeof(float)));
  }

  const absl::Status& status() const { return status_; }

 private:
  void* Allocate(size_t bytes) {
    absl::StatusOr<void*> block = memory_.Allocate(bytes);
    status_.Update(block.status());
    return block.ok() ? *block : nullptr;
  }

  BackendMemory& memory_;
  absl::Status status_;
};

Matrix Column(const Matrix& matrix, int column) {
  Matrix part = matrix;
  part.data =
      static_cast<std::byte*>(matrix.data) + static_cast<size_t>(column) * ByteSize(matrix.dtype);
  return part;
}

void BindMixer(const Buffers& buffers, MixerPlan& mixer) {
  mixer.in_proj.x = buffers.normed;
  mixer.in_proj.y = buffers.projected;
  for (InnerProjection& inner : mixer.inner) {
    inner.matmul.x = Column(buffers.projected, inner.from);
    inner.matmul.y = Column(buffers.projected, inner.to);
  }
  mixer.token_mix.x = Column(buffers.projected, mixer.mix_column);

  const Decay decay = DecayOf(mixer.advance.memory);
  const bool has_beta = HasBeta(mixer.advance.memory);
  MemoryInputsArgs& inputs = mixer.inputs;
  inputs.projected = buffers.projected;
  inputs.q = buffers.q;
  inputs.k = mixer.precondition.has_value() ? buffers.raw_k : buffers.k;
  inputs.v = buffers.v;
  const bool has_gate = decay == Decay::kScalar || decay == Decay::kChannel;
  inputs.log_decay = has_gate ? buffers.log_decay : nullptr;
  inputs.decay_channels = DecayChannels(mixer);
  inputs.beta = has_beta ? buffers.beta : nullptr;
  inputs.level_weights.out = buffers.level_weights;

  if (mixer.precondition.has_value()) {
    PreconditionArgs& precondition = *mixer.precondition;
    precondition.k = buffers.raw_k;
    precondition.q = buffers.q;
    precondition.beta = buffers.beta;
    precondition.w = buffers.k;
    precondition.e = buffers.e;
  }

  AdvanceArgs& advance = mixer.advance;
  advance.shape = inputs.shape;
  advance.q = buffers.q;
  advance.k = buffers.k;
  advance.e = buffers.e;
  advance.v = buffers.v;
  advance.log_decay = decay == Decay::kConstant ? advance.log_decay : inputs.log_decay;
  advance.beta = inputs.beta;
  advance.level_weights = buffers.level_weights;
  advance.o = buffers.o;

  mixer.output.o = buffers.o;
  mixer.output.y = buffers.mixed;
  if (mixer.gate_column >= 0) {
    mixer.output.gate = Column(buffers.projected, mixer.gate_column);
  } else {
    mixer.output.gate_activation = Activation::kNone;
  }
  if (mixer.skip_column >= 0) {
    mixer.output.skip = Column(buffers.projected, mixer.skip_column);
  }
  if (mixer.attention.has_value()) {
    mixer.attention->projected = buffers.projected;
    mixer.attention->y = buffers.mixed;
  }
  mixer.out_proj.x = buffers.mixed;
  mixer.out_proj.y = buffers.residual;
}

void BindMlp(const Buffers& buffers, MlpPlan& mlp) {
  mlp.norm.x = buffers.residual;
  mlp.norm.y = buffers.normed;
  mlp.gate_up.x = buffers.normed;
  mlp.gate_up.y = buffers.gate_up;
  mlp.activation.gate_up = buffers.gate_up;
  mlp.activation.y = buffers.mlp;
  mlp.norm.feeds_product = true;
  mlp.activation.feeds_product = true;
  mlp.down.x = buffers.mlp;
  mlp.down.y = buffers.residual;
}

void BindLayer(const Buffers& buffers, LayerPlan& layer) {
  layer.mixer_norm.x = buffers.residual;
  layer.mixer_norm.y = buffers.normed;
  layer.mixer_norm.feeds_product = true;
  BindMixer(buffers, layer.mixer);
  if (layer.mlp.has_value()) {
    BindMlp(buffers, *layer.mlp);
  }
}

// The bytes that a layer's memory takes at `offset` of a slot; `index` counts the memories.
size_t PlaceMemory(const ModelOptions& options, size_t offset, int index, MixerPlan& mixer) {
  AdvanceArgs& advance = mixer.advance;
  advance.window = options.window;
  advance.state_dtype = options.state_dtype;
  advance.memory_layer = index;
  advance.layer_offset = offset;
  size_t bytes = AlignUp(
      LayoutOf(advance.memory, mixer.inputs.shape, options.window, options.state_dtype).bytes);
  if (mixer.precondition.has_value()) {
    PreconditionArgs& precondition = *mixer.precondition;
    precondition.window = options.window;
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

}  // namespace

size_t PlaceStates(const ModelOptions& options, ModelPlan& plan, std::vector<LayerInfo>* layers) {
  size_t offset = 0;
  int memories = 0;
  for (LayerPlan& layer : plan.layers) {
    MixerPlan& mixer = layer.mixer;
    const size_t bytes = mixer.attention.has_value()
                             ? PlaceAttention(options, offset, *mixer.attention)
                             : PlaceMemory(options, offset, memories++, mixer);
    layers->push_back(Describe(mixer));
    layers->back().state_bytes = static_cast<int64_t>(bytes);
    offset += bytes;
  }
  return offset;
}

absl::Status BindBuffers(const ModelOptions& options, BackendMemory& memory, ModelPlan& plan) {
  const Widths widths = WidthsOf(plan);
  const DType dtype = memory.backend().activation_dtype();
  const int64_t tokens = Padded(options.max_step_tokens);
  const int64_t logits = Padded(options.max_step_logits);
  BufferAllocator allocator(memory);
  Buffers buffers;
  // Sums of all layers: little to move, and much to lose in bf16.
  buffers.residual = allocator.Rows(tokens, plan.hidden_size, DType::kF32);
  buffers.normed = allocator.Rows(tokens, plan.hidden_size, dtype);
  buffers.projected = allocator.Rows(tokens, widths.projected, dtype);
  buffers.mixed = allocator.Rows(tokens, widths.mixed, dtype);
  buffers.gate_up = allocator.Rows(tokens, 2 * widths.mlp, dtype);
  buffers.mlp = allocator.Rows(tokens, widths.mlp, dtype);
  buffers.last = allocator.Rows(logits, plan.hidden_size, dtype);
  buffers.logits = allocator.Rows(logits, plan.vocab_size, DType::kF32);
  buffers.q = allocator.Floats(tokens * widths.query);
  buffers.k = allocator.Floats(tokens * widths.key);
  buffers.e = allocator.Floats(tokens * widths.own_key);
  buffers.raw_k = allocator.Floats(tokens * widths.raw_key);
  buffers.v = allocator.Floats(tokens * widths.value);
  buffers.log_decay = allocator.Floats(tokens * widths.decay);
  buffers.beta = allocator.Floats(tokens * widths.heads);
  buffers.level_weights = allocator.Floats(tokens * widths.levels);
  buffers.o = allocator.Floats(tokens * widths.read);
  if (!allocator.status().ok()) {
    return allocator.status();
  }
  plan.embed.out = buffers.residual;
  for (LayerPlan& layer : plan.layers) {
    BindLayer(buffers, layer);
  }
  plan.norm.x = buffers.residual;
  plan.norm.y = buffers.last;
  plan.head.x = buffers.last;
  plan.head.y = buffers.logits;
  return absl::OkStatus();
}

namespace {

// From what a mixer projects to what it projects back.
void RunMemory(const Slots& slots, MixerPlan& mixer, Backend& backend) {
  for (InnerProjection& inner : mixer.inner) {
    backend.MatMul(inner.matmul);
  }
  if (mixer.token_mix.channels > 0) {
    mixer.token_mix.slots = slots;
    backend.TokenMix(mixer.token_mix);
  }
  backend.MemoryInputs(mixer.inputs);
  if (mixer.precondition.has_value()) {
    mixer.precondition->slots = slots;
    backend.Precondition(*mixer.precondition);
  }
  mixer.advance.slots = slots;
  backend.Advance(mixer.advance);
  backend.MemoryOutput(mixer.output);
}

void RunAttention(const Slots& slots, WindowAttentionArgs& attention, Backend& backend) {
  attention.slots = slots;
  backend.WindowAttention(attention);
}

}  // namespace

void RunForward(const Slots& slots, ModelPlan& plan, Backend& backend) {
  backend.Embed(plan.embed);
  for (LayerPlan& layer : plan.layers) {
    MixerPlan& mixer = layer.mixer;
    backend.Norm(layer.mixer_norm);
    backend.MatMul(mixer.in_proj);
    if (mixer.attention.has_value()) {
      RunAttention(slots, *mixer.attention, backend);
    } else {
      RunMemory(slots, mixer, backend);
    }
    backend.MatMul(mixer.out_proj);

    if (layer.mlp.has_value()) {
      backend.Norm(layer.mlp->norm);
      backend.MatMul(layer.mlp->gate_up);
      backend.MlpActivation(layer.mlp->activation);
      backend.MatMul(layer.mlp->down);
    }
  }
  backend.Norm(plan.norm);
  backend.MatMul(plan.head);
}

}  // namespace evenflow
