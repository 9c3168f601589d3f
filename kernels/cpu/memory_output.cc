#include <cstring>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/step.h"
#include "kernels/math/head_norm.h"

namespace evenflow {
namespace {

// One head of one token: y = RMSNorm(o / normaliser) * weight * act(gate), [value_dim].
void OutputHead(const MemoryOutputArgs& args, const float* o, const float* gate, float* y) {
  const int dim = args.value_dim;
  const float scale = args.normalizer ? NormalizerFactor(o[dim]) : 1.0f;
  const float squares = Sum(dim, [&](int64_t i) { return (o[i] * scale) * (o[i] * scale); });
  const float factor = InverseRms(squares, dim, args.eps);
  // The gate may lie where y does.
  if (gate == nullptr) {
    for (int i = 0; i < dim; ++i) {
      y[i] = 1.0f;
    }
  } else {
    std::memmove(y, gate, static_cast<size_t>(dim) * sizeof(float));
    Activate(args.gate_activation, y, dim);
  }
  for (int i = 0; i < dim; ++i) {
    const float weight = args.weight == nullptr ? 1.0f : args.weight[i];
    y[i] *= o[i] * scale * factor * weight;
  }
}

}  // namespace

void CpuMemoryOutput(const MemoryOutputArgs& args, const CpuStep& step, WorkerPool& pool) {
  constexpr int64_t kWorkPerElement = 8;
  const int64_t stride = args.value_dim + (args.normalizer ? 1 : 0);
  const int64_t items = static_cast<int64_t>(step.tokens.size()) * args.heads;
  ForItems(pool, items, args.value_dim * kWorkPerElement, [&](int64_t item) {
    const int64_t token = item / args.heads;
    const int64_t column = item % args.heads * args.value_dim;
    const float* const gate =
        args.gate.data == nullptr ? nullptr : RowOf(args.gate, token) + column;
    OutputHead(args, args.o + item * stride, gate, MutableRowOf(args.y, token) + column);
  });
}

}  // namespace evenflow
