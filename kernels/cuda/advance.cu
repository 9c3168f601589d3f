// Chooses the kernels that advance a layer's memories.
#include <algorithm>

#include "kernels/cuda/advance.cuh"
#include "kernels/cuda/advance_banked.h"
#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/memory_inputs.cuh"

namespace evenflow {
namespace {

constexpr size_t kAlignment = 256;
// Of a step whose MemoryInputs are left to the decode kernel: with more it takes longer
// (kernels/cuda/README.md).
constexpr int kMaxPreparedRows = 32;

size_t RoundUp(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

size_t LogBytes(const AdvanceArgs& args, const CudaStep& step) {
  const Decay decay = DecayOf(args.memory);
  if (decay != Decay::kScalar && decay != Decay::kChannel) {
    return 0;
  }
  const auto dim = static_cast<size_t>(decay == Decay::kChannel ? args.shape.key_dim : 1);
  const size_t bytes = static_cast<size_t>(step.token_count) *
                       static_cast<size_t>(args.shape.heads) * dim * sizeof(float);
  return RoundUp(bytes);
}

// Whether the call takes any of the step's rows, as far as the host knows.
bool HasRows(const AdvanceCall& call, const CudaStep& step) {
  return step.max_row_tokens >= call.min_tokens && call.min_tokens < call.end_tokens &&
         (step.host_rows == nullptr ||
          std::any_of(step.host_rows, step.host_rows + step.row_count,
                      [&](const Row& row) { return call.Takes(row); }));
}

// Whether all rows are the decode kernel's, with one token each.
bool DecodesAlone(const AdvanceArgs& args, const CudaStep& step) {
  return step.max_row_tokens == 1 && DecodeSupports(args, step.row_count);
}

// Of a block.
int MaxSharedBytes() {
  int most = 0;
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  return most;
}

}  // namespace

bool DecodeSupports(const AdvanceArgs& args, int rows) {
  const MemoryShape& shape = args.shape;
  int shared_bytes = 0;  // 0: no such shape. States of either type take as many.
  VisitDecodeShape<float>(
      args, [&]<class Shape>() { shared_bytes = DecodeShared<Shape>::Bytes(args.window.ring()); });
  return shared_bytes > 0 && shared_bytes <= MaxSharedBytes() && rows <= kMaxDecodeRows &&
         shape.value_dim % kQuad == 0 && shape.query_heads <= shape.heads &&
         args.window.rollback >= 1 && args.window.rollback <= args.window.commit &&
         args.window.ring() <= kMaxRing && (args.slots.slot_bytes | args.layer_offset) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(args.slots.base) % 16 == 0;
}

const char* CudaRefusal(const AdvanceArgs& args) {
  const size_t least =
      IsBanked(args.memory) ? LeastSharedOfBanks(args) : LeastSharedOfAnyShape(args);
  return least <= static_cast<size_t>(MaxSharedBytes())
             ? nullptr
             : "heads with so many key channels: a few columns of their states must fit into a "
               "multiprocessor's shared memory";
}

bool CanGoBefore(const AdvanceArgs& args, const MemoryInputsArgs& inputs, const CudaStep& step) {
  const MemoryShape& shape = args.shape;
  const bool whole = inputs.raw_key_dim == shape.key_dim && inputs.raw_value_dim == shape.value_dim;
  const bool decays =
      DecayOf(args.memory) == Decay::kScalar || DecayOf(args.memory) == Decay::kChannel;
  const bool by_channels = DecayOf(args.memory) == Decay::kChannel;
  return DecodesAlone(args, step) && step.row_count <= kMaxPreparedRows && whole &&
         VisitMemory(args.memory, []<class Memory>() { return kPreparable<Memory>; }) &&
         inputs.q == args.q && inputs.k == args.k && inputs.v == args.v &&
         (!decays || (inputs.log_decay == args.log_decay && inputs.decay_column >= 0 &&
                      inputs.decay_channels == (by_channels ? shape.key_dim : 1))) &&
         (args.beta == nullptr || inputs.beta == args.beta) &&
         (inputs.k_column >= 0 || (by_channels && shape.key_heads == shape.heads)) &&
         IsElementwise(inputs.q_map.map) && IsElementwise(inputs.k_map.map) &&
         inputs.level_weights.column < 0;
}

bool CanFollow(const AdvanceArgs& args, const MemoryOutputArgs& output, const LeftFactors& left,
               const CudaStep& step) {
  return DecodesAlone(args, step) && output.o == args.o && output.heads == args.shape.heads &&
         output.value_dim == args.shape.value_dim && !output.normalizer &&
         output.skip.data == nullptr && (output.norm == OutputNorm::kNone || left.data != nullptr);
}

void CudaAdvance(const AdvanceArgs& args, const CudaStep& step, const BesideAdvance& beside) {
  AdvanceCall call;
  call.args = args;
  call.layout = LayoutOf(args.memory, args.shape, args.window, args.state_dtype);
  call.rows = step.rows;
  call.health = step.health + int64_t{args.memory_layer} * step.health_stride;
  const bool decodes = DecodeSupports(args, step.row_count);
  // Several commits of a row in one launch would count its tiles twice.
  call.min_tokens = decodes ? std::min(kMaxDecodeTokens, args.window.commit) + 1 : 1;
  const bool any = step.max_row_tokens >= call.min_tokens;
  const Prompts prompts(args, step);
  const size_t log_bytes = any ? LogBytes(args, step) : 0;
  const size_t part_bytes = RoundUp(
      static_cast<size_t>(step.row_count) *
      static_cast<size_t>(args.shape.heads * Quads(args.shape.value_dim)) * sizeof(HealthPart));
  const size_t own_bytes =
      IsBanked(args.memory) ? ScratchOfBanks(args, step) : prompts.scratch_bytes();
  auto* scratch = static_cast<std::byte*>(step.scratch->Take(log_bytes + part_bytes + own_bytes));
  if (scratch == nullptr) {
    return;  // the failed allocation stays with the runtime, for the backend to find
  }
  call.logs = reinterpret_cast<float*>(scratch);
  call.parts = reinterpret_cast<HealthPart*>(scratch + log_bytes);
  if (decodes) {
    const bool f32 = args.state_dtype == DType::kF32;
    AdvanceCall one = call, few = call;
    one.min_tokens = 1;
    one.end_tokens = few.min_tokens = 2;
    few.end_tokens = call.min_tokens;
    if (HasRows(one, step)) {
      (f32 ? DecodeF32 : DecodeBF16)(one, beside, step);
    }
    if (HasRows(few, step)) {
      (f32 ? DecodeFewF32 : DecodeFewBF16)(few, step);
    }
  }
  if (!any) {
    return;
  }
  AdvanceCall others = call;
  others.end_tokens = prompts.min_tokens();
  if (HasRows(others, step)) {
    if (IsBanked(args.memory)) {
      AdvanceBanks(others, step, scratch + log_bytes + part_bytes);
    } else {
      AdvanceAnyShape(others, step);
    }
  }
  if (prompts.any()) {
    prompts.Advance(call, scratch + log_bytes + part_bytes);
  }
}

}  // namespace evenflow
