// The size of a layer that the CUDA benchmarks measure a memory at: that of models in use.
#ifndef EVENFLOW_TESTS_BENCH_MEMORY_SHAPE_H_
#define EVENFLOW_TESTS_BENCH_MEMORY_SHAPE_H_

#include "kernels/memories/registry.h"

namespace evenflow {

inline MemoryShape ShapeOf(MemoryKind memory) {
  const auto plain = [](int heads, int key_dim, int value_dim) -> MemoryShape {
    return {heads, heads, heads, heads, key_dim, value_dim};
  };
  switch (memory) {
    case MemoryKind::kRetention:
      return plain(8, 256, 512);
    case MemoryKind::kGatedLinearAttention:
      return plain(4, 256, 512);
    case MemoryKind::kStateSpaceDuality:
      return plain(64, 128, 64);
    case MemoryKind::kLogLinearAttention:
    case MemoryKind::kLogLinearDeltaRule: {
      MemoryShape shape = plain(32, 128, 128);
      shape.banks = 18;  // levels: 131,072 tokens and more
      return shape;
    }
    case MemoryKind::kVort: {
      MemoryShape shape = plain(32, 128, 129);  // with the normaliser's column
      shape.banks = 8;                          // nodes: a million tokens, to 1e-3
      return shape;
    }
    default:
      return plain(32, 128, 128);
  }
}

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_BENCH_MEMORY_SHAPE_H_
