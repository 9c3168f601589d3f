#include <algorithm>
#include <cstring>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/step.h"

namespace evenflow {
namespace {

constexpr int kPart = 256;  // channels that one task takes through all tokens of a row

// All tokens of a row for channels [first, first + count). `ring` is the session's.
void ShiftRow(const TokenShiftArgs& args, const Row& row, float* ring, int first, int count) {
  const auto bytes = static_cast<size_t>(count) * sizeof(float);
  const auto entry = [&](int64_t at) { return ring + at % args.ring() * args.channels + first; };
  float before[kPart] = {};
  if (row.position > 0) {
    std::memcpy(before, entry(row.position - 1), bytes);
  }
  for (int i = 0; i < row.tokens; ++i) {
    const float* const x = RowOf(args.x, row.first_token + i) + first;
    for (int s = 0; s < args.streams; ++s) {
      const int64_t column = int64_t{s} * args.channels + first;
      const float* const mix = args.mix + column;
      float* const y = MutableRowOf(args.y, row.first_token + i) + column;
      for (int c = 0; c < count; ++c) {
        y[c] = x[c] + (before[c] - x[c]) * mix[c];
      }
    }
    std::memcpy(before, x, bytes);
    std::memcpy(entry(row.position + i), x, bytes);
  }
}

}  // namespace

void CpuTokenShift(const TokenShiftArgs& args, const CpuStep& step, WorkerPool& pool) {
  const int64_t parts = (args.channels + kPart - 1) / kPart;
  const auto rows = static_cast<int64_t>(step.rows.size());
  const int64_t tokens_per_row =
      static_cast<int64_t>(step.tokens.size()) / std::max<int64_t>(rows, 1);
  ForItems(pool, rows * parts, kPart * args.streams * tokens_per_row, [&](int64_t item) {
    const Row& row = step.rows[static_cast<size_t>(item / parts)];
    auto* const ring = reinterpret_cast<float*>(
        args.slots.base + static_cast<size_t>(row.slot) * args.slots.slot_bytes + args.ring_offset);
    const auto first = static_cast<int>(item % parts * kPart);
    ShiftRow(args, row, ring, first, std::min(kPart, args.channels - first));
  });
}

}  // namespace evenflow
