#include <algorithm>
#include <cmath>

#include "kernels/operations.h"
#include "kernels/precondition.h"

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

MemoryKind MemoryOf(PreconditionMode mode) {
  switch (mode) {
    case PreconditionMode::kStar:
    case PreconditionMode::kSym:
      return MemoryKind::kVlaSymmetric;
    case PreconditionMode::kUnit:
    case PreconditionMode::kExact:
    case PreconditionMode::kV3:
      return MemoryKind::kVlaOblique;
    case PreconditionMode::kRls:
      break;
  }
  return MemoryKind::kVlaLeastSquares;
}

int RowsPerToken(const Preconditioner& preconditioner) {
  const bool leaks = preconditioner.mode != PreconditionMode::kV3 && preconditioner.mu < 1;
  return leaks ? 2 : 1;
}

Window WindowOf(const Preconditioner& preconditioner, const Window& window) {
  Window own = window;
  if (RowsPerToken(preconditioner) == 2) {
    const double tokens = std::log(4.0) / -std::log(preconditioner.mu);
    own.commit = std::clamp(static_cast<int>(std::min(tokens, 1e6)), 1, window.commit);
  }
  return own;
}

PreconditionLayout LayoutOf(const Preconditioner& preconditioner, const Window& window) {
  const auto heads = static_cast<size_t>(preconditioner.heads);
  const auto dim = static_cast<size_t>(preconditioner.key_dim);
  const auto rows = static_cast<size_t>(RowsPerToken(preconditioner));
  const auto ring = heads * static_cast<size_t>(WindowOf(preconditioner, window).ring());
  const size_t sums = preconditioner.mode == PreconditionMode::kV3 ? 1 : 0;
  PreconditionLayout layout;
  layout.plane = Take(heads * dim * dim * sizeof(float), &layout.bytes);
  layout.sums = Take(sums * heads * dim * sizeof(float), &layout.bytes);
  layout.committed_tokens = Take(heads * sizeof(int64_t), &layout.bytes);
  layout.rows = Take(ring * rows * dim * sizeof(float), &layout.bytes);
  layout.keys = Take(sums * ring * dim * sizeof(float), &layout.bytes);
  return layout;
}

}  // namespace evenflow
