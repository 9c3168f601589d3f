#include <cstring>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/step.h"

namespace evenflow {
namespace {

constexpr int kPart = 256;  // channels that one task takes through all tokens of a row

struct Part {
  int first = 0;  // channel
  int count = 0;
  Activation activation = Activation::kNone;
};

std::vector<Part> PartsOf(const TokenMixArgs& args) {
  std::vector<Part> parts;
  int first = 0;
  for (const TokenMixArgs::Segment& segment : args.segments) {
    for (int done = 0; done < segment.channels; done += kPart) {
      parts.push_back({first + done, std::min(kPart, segment.channels - done), segment.activation});
    }
    first += segment.channels;
  }
  return parts;
}

// One token's convolution over a part of the channels. `ring` is the session's.
void MixToken(const TokenMixArgs& args, const Part& part, int64_t position, float* ring, float* x) {
  const int64_t entries = args.taps - 1 + args.rollback;
  const auto entry = [&](int64_t at) { return ring + at % entries * args.channels + part.first; };
  const float* const weight = args.weight + static_cast<int64_t>(part.first) * args.taps;
  const auto bytes = static_cast<size_t>(part.count) * sizeof(float);
  float input[kPart];
  std::memcpy(input, x, bytes);
  if (args.bias == nullptr) {
    std::memset(x, 0, bytes);
  } else {
    std::memcpy(x, args.bias + part.first, bytes);
  }
  for (int tap = 0; tap < args.taps; ++tap) {
    const int64_t at = position - args.taps + 1 + tap;
    if (at < 0) {
      continue;
    }
    const float* const from = tap == args.taps - 1 ? input : entry(at);
    for (int c = 0; c < part.count; ++c) {
      x[c] += weight[c * args.taps + tap] * from[c];
    }
  }
  Activate(part.activation, x, part.count);
  if (args.taps > 1) {
    std::memcpy(entry(position), input, bytes);
  }
}

}  // namespace

void CpuTokenMix(const TokenMixArgs& args, const CpuStep& step, WorkerPool& pool) {
  constexpr int64_t kWorkPerElement = 8;
  const std::vector<Part> parts = PartsOf(args);
  const auto part_count = static_cast<int64_t>(parts.size());
  const auto rows = static_cast<int64_t>(step.rows.size());
  const int64_t tokens_per_row =
      static_cast<int64_t>(step.tokens.size()) / std::max<int64_t>(rows, 1);
  ForItems(pool, rows * part_count, kPart * kWorkPerElement * tokens_per_row, [&](int64_t item) {
    const Row& row = step.rows[static_cast<size_t>(item / part_count)];
    const Part& part = parts[static_cast<size_t>(item % part_count)];
    auto* const ring = reinterpret_cast<float*>(
        args.slots.base + static_cast<size_t>(row.slot) * args.slots.slot_bytes + args.ring_offset);
    for (int i = 0; i < row.tokens; ++i) {
      MixToken(args, part, row.position + i, ring,
               MutableRowOf(args.x, row.first_token + i) + part.first);
    }
  });
}

}  // namespace evenflow
