// Launches the kernels that read prompts in chunks: see kernels/cuda/prefill.cuh.
#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "kernels/cuda/around_advance.cuh"
#include "kernels/cuda/prefill.cuh"

namespace evenflow {
namespace {

constexpr int kMaxKeys = 256;
constexpr size_t kMaxLaunchBytes = size_t{256} << 20;  // of a launch of several rows

WeightLayout LayoutOfWeights(const AdvanceArgs& args, DType activations) {
  const MemoryShape& shape = args.shape;
  return VisitMemory(args.memory, [&]<class Memory>() -> WeightLayout {
    using T = Traits<Memory>;
    const bool exact = activations == DType::kF32 || kAlwaysExact<Memory>;
    return {PaddedKeys(shape.key_dim) / kSlice,
            std::max(1, shape.query_heads / shape.heads),
            T::kErases,
            exact ? kExactParts : kFastParts,
            std::countr_zero(static_cast<unsigned>(T::kEntries)),
            T::kWriting};
  });
}

size_t ItemBytes(const AdvanceArgs& args, const WeightLayout& layout) {
  return static_cast<size_t>(args.shape.heads) * static_cast<size_t>(layout.bytes());
}

// Blocks of C tokens are whole steps of a product, and what is stored lies in the last chunk or in
// the one before.
bool Serves(const AdvanceArgs& args) {
  const auto [commit, rollback] =
      VisitMemory(args.memory, [&]<class Memory>() -> std::pair<int, int> {
        static_assert(std::has_single_bit(static_cast<unsigned>(kEntryCount<Memory>)));
        const int entries = kEntryCount<Memory>;
        return {entries * args.window.commit, entries * args.window.rollback};
      });
  const bool memory = VisitMemory(args.memory, []<class Memory>() { return InChunks<Memory>; });
  return memory && args.shape.key_dim <= kMaxKeys && commit % kMma == 0 && kChunk % commit == 0 &&
         rollback <= kChunk;
}

bool InWholePieces(const AdvanceCall& call) {
  const AdvanceArgs& args = call.args;
  const auto address = [](const void* data) { return reinterpret_cast<uintptr_t>(data); };
  return (args.shape.key_dim | args.shape.value_dim) % 4 == 0 &&
         (address(args.q) | address(args.k) | address(args.e) | address(args.v) |
          address(args.log_decay) | address(args.slots.base) | args.slots.slot_bytes |
          args.layer_offset) %
                 16 ==
             0;
}

// The step's prompts, in as many launches as needed.
std::vector<PromptRows> Launches(const AdvanceArgs& args, const CudaStep& step,
                                 const WeightLayout& layout) {
  std::vector<PromptRows> launches;
  const size_t item = ItemBytes(args, layout);
  for (int r = 0; r < step.row_count && step.host_rows != nullptr; ++r) {
    const int tokens = step.host_rows[r].tokens;
    if (tokens < kMinPromptTokens) {
      continue;
    }
    const int chunks = MostChunks(tokens, args.window, layout);
    if (launches.empty() || launches.back().count == kMaxPromptRows ||
        item * static_cast<size_t>(launches.back().first_item[launches.back().count] + chunks) >
            kMaxLaunchBytes) {
      launches.emplace_back();
    }
    PromptRows& rows = launches.back();
    rows.row[rows.count] = r;
    rows.first_item[rows.count + 1] = rows.first_item[rows.count] + chunks;
    ++rows.count;
  }
  return launches;
}

}  // namespace

Prompts::Prompts(const AdvanceArgs& args, const CudaStep& step) : step_(step) {
  if (step.batch_invariant || !Serves(args) || step.max_row_tokens < kMinPromptTokens) {
    return;
  }
  const WeightLayout layout = LayoutOfWeights(args, step.activations);
  if (!PassFits(layout)) {
    return;
  }
  for (const PromptRows& rows : Launches(args, step, layout)) {
    bytes_ = std::max(bytes_,
                      ItemBytes(args, layout) * static_cast<size_t>(rows.first_item[rows.count]));
  }
}

int Prompts::min_tokens() const {
  return any() ? kMinPromptTokens : INT_MAX;
}

void Prompts::Advance(const AdvanceCall& call, std::byte* scratch) const {
  PromptCall prompts;
  prompts.advance = call;
  prompts.advance.min_tokens = kMinPromptTokens;
  prompts.layout = LayoutOfWeights(call.args, step_.activations);
  prompts.weights = scratch;
  prompts.wide = InWholePieces(call);
  VisitInChunks(call.args.memory, [&]<class Memory>() {
    for (const PromptRows& rows : Launches(call.args, step_, prompts.layout)) {
      prompts.rows = rows;
      if (!Traits<Memory>::kChannels) {
        LaunchSumLogs<Memory>(prompts.advance, rows, step_);
      }
      WeighPrompts(prompts, rows.first_item[rows.count], step_.stream);
      PassPrompts(prompts, step_.stream);
      LaunchFinish<Memory>(prompts.advance, rows, step_);
    }
  });
}

}  // namespace evenflow
