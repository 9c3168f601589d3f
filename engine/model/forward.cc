#include "engine/model/forward.h"

#include <algorithm>

namespace evenflow {
namespace {

constexpr int64_t kRowAlignment = 16;  // elements, of each activation row

// With the room that a device may use for more.
int64_t Padded(int64_t count) {
  return (count + kStepPadding - 1) / kStepPadding * kStepPadding;
}

// The largest width of each kind of activation over all layers, in elements a token.
struct Widths {
  int64_t shifted = 0, projected = 0, key = 0, own_key = 0, raw_key = 0, query = 0, value = 0,
          first_value = 0, decay = 0, heads = 0, levels = 0, read = 0, mixed = 0, mlp = 0;
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
    for (const auto* list : {&layer.mixer.shifted, &layer.mixer.inner}) {
      for (const InnerProjection& part : *list) {
        grow(widths.projected, part.to + part.matmul.w.rows);
      }
    }
    grow(widths.shifted, int64_t{layer.mixer.shift.channels} * layer.mixer.shift.streams);
    grow(widths.first_value, layer.mixer.keys.has_value() ? shape.heads * shape.value_dim : 0);
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
  Matrix residual, normed, shifted, projected, mixed, gate_up, mlp, last, logits;
  float *q = nullptr, *k = nullptr, *e = nullptr, *v = nullptr, *log_decay = nullptr,
        *beta = nullptr, *level_weights = nullptr, *o = nullptr;
  float* raw_k = nullptr;    // before a preconditioner makes k of it
  float* first_v = nullptr;  // of the first layer, for all others
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

void BindKeys(const Buffers& buffers, const MemoryShape& shape, GeneralizedDeltaKeysArgs& keys) {
  keys.projected = buffers.projected;
  keys.shape = shape;
  keys.q = buffers.q;
  keys.log_decay = buffers.log_decay;
  keys.v = buffers.v;
  keys.first_v = buffers.first_v;
  keys.k = buffers.k;
  keys.e = buffers.e;
}

void BindMixer(const Buffers& buffers, MixerPlan& mixer) {
  mixer.in_proj.x = buffers.normed;
  mixer.in_proj.y = buffers.projected;
  mixer.shift.x = buffers.normed;
  mixer.shift.y = buffers.shifted;
  for (InnerProjection& stream : mixer.shifted) {
    stream.matmul.x = Column(buffers.shifted, stream.from);
    stream.matmul.y = Column(buffers.projected, stream.to);
  }
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
  if (mixer.keys.has_value()) {
    BindKeys(buffers, inputs.shape, *mixer.keys);
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
  mixer.output.feeds_product = true;
  mixer.out_proj.x = buffers.mixed;
  mixer.out_proj.y = buffers.residual;
}

void BindMlp(const Buffers& buffers, MlpPlan& mlp) {
  mlp.norm.x = buffers.residual;
  mlp.norm.y = buffers.normed;
  mlp.shift.x = buffers.normed;
  mlp.shift.y = buffers.shifted;
  mlp.gate_up.x = mlp.shift.channels > 0 ? buffers.shifted : buffers.normed;
  mlp.gate_up.y = buffers.gate_up;
  mlp.activation.gate_up = buffers.gate_up;
  mlp.activation.y = buffers.mlp;
  mlp.norm.feeds_product = mlp.shift.channels == 0;
  mlp.activation.feeds_product = mlp.activation.has_up;
  mlp.down.x = buffers.mlp;
  mlp.down.y = buffers.residual;
}

void BindLayer(const Buffers& buffers, LayerPlan& layer) {
  layer.mixer_norm.x = buffers.residual;
  layer.mixer_norm.y = buffers.normed;
  layer.mixer_norm.feeds_product = layer.mixer.shift.channels == 0;
  BindMixer(buffers, layer.mixer);
  if (layer.mlp.has_value()) {
    BindMlp(buffers, *layer.mlp);
  }
}

}  // namespace

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
  buffers.shifted = allocator.Rows(tokens, widths.shifted, dtype);
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
  buffers.first_v = allocator.Floats(tokens * widths.first_value);
  if (!allocator.status().ok()) {
    return allocator.status();
  }
  plan.embed.out = buffers.residual;
  if (plan.embed_norm.has_value()) {
    plan.embed_norm->x = plan.embed_norm->y = buffers.residual;
  }
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

void RunShift(const Slots& slots, TokenShiftArgs& shift, Backend& backend) {
  if (shift.channels > 0) {
    shift.slots = slots;
    backend.TokenShift(shift);
  }
}

// From a normed residual stream to all that a mixer projects it to.
void RunProjections(const Slots& slots, MixerPlan& mixer, Backend& backend) {
  RunShift(slots, mixer.shift, backend);
  for (const InnerProjection& stream : mixer.shifted) {
    backend.MatMul(stream.matmul);
  }
  if (mixer.shifted.empty()) {
    backend.MatMul(mixer.in_proj);
  }
  if (mixer.token_mix.channels > 0) {
    mixer.token_mix.slots = slots;
    backend.TokenMix(mixer.token_mix);
  }
  for (const InnerProjection& inner : mixer.inner) {
    backend.MatMul(inner.matmul);
  }
}

// From what a mixer projects to what it projects back.
void RunMemory(const Slots& slots, MixerPlan& mixer, Backend& backend) {
  backend.MemoryInputs(mixer.inputs);
  if (mixer.precondition.has_value()) {
    mixer.precondition->slots = slots;
    backend.Precondition(*mixer.precondition);
  }
  if (mixer.keys.has_value()) {
    backend.GeneralizedDeltaKeys(*mixer.keys);
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
  if (plan.embed_norm.has_value()) {
    backend.Norm(*plan.embed_norm);
  }
  for (LayerPlan& layer : plan.layers) {
    MixerPlan& mixer = layer.mixer;
    backend.Norm(layer.mixer_norm);
    RunProjections(slots, mixer, backend);
    if (mixer.attention.has_value()) {
      RunAttention(slots, *mixer.attention, backend);
    } else {
      RunMemory(slots, mixer, backend);
    }
    backend.MatMul(mixer.out_proj);

    if (layer.mlp.has_value()) {
      backend.Norm(layer.mlp->norm);
      RunShift(slots, layer.mlp->shift, backend);
      backend.MatMul(layer.mlp->gate_up);
      backend.MlpActivation(layer.mlp->activation);
      backend.MatMul(layer.mlp->down);
    }
  }
  backend.Norm(plan.norm);
  backend.MatMul(plan.head);
}

}  // namespace evenflow
