#include "kernels/backend.h"

namespace evenflow {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and the widest vector

// Takes `bytes` from the end of a layer and returns where they begin.
size_t Take(size_t bytes, size_t* end) {
  const size_t begin = *end;
  *end = (begin + bytes + kAlignment - 1) / kAlignment * kAlignment;
  return begin;
}

}  // namespace

MemoryLayout LayoutOf(MemoryKind memory, const MemoryShape& shape, const Window& window,
                      DType state_dtype) {
  const auto heads = static_cast<size_t>(shape.heads);
  const auto banks = static_cast<size_t>(BankCount(memory, shape, window));
  const auto key_dim = static_cast<size_t>(shape.key_dim);
  const auto value_dim = static_cast<size_t>(shape.value_dim);
  const auto tokens = heads * static_cast<size_t>(window.ring());
  const auto entries = tokens * static_cast<size_t>(EntryCount(memory));
  const Decay decay = DecayOf(memory);
  size_t decays = 0;  // that a token keeps
  if (decay == Decay::kScalar) {
    decays = 1;
  } else if (decay == Decay::kChannel) {
    decays = key_dim;
  }
  MemoryLayout layout;
  layout.committed =
      Take(heads * banks * key_dim * value_dim * ByteSize(state_dtype), &layout.bytes);
  layout.committed_tokens = Take(sizeof(int64_t), &layout.bytes);
  layout.keys = Take(entries * key_dim * sizeof(float), &layout.bytes);
  layout.values = Take(entries * value_dim * sizeof(float), &layout.bytes);
  layout.log_decay = Take(tokens * decays * sizeof(float), &layout.bytes);
  if (IsBanked(memory) && HasBeta(memory)) {
    layout.beta = Take(tokens * sizeof(float), &layout.bytes);
  }
  return layout;
}

}  // namespace evenflow
