#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/step.h"
#include "kernels/math/head_norm.h"

namespace evenflow {
namespace {

// A norm that looks at one channel at a time.
template <class Function>
void MapRow(const NormArgs& args, const float* x, float* y, const Function& function) {
  for (int i = 0; i < args.dim; ++i) {
    const float weight = args.weight == nullptr ? 1.0f : args.weight[i];
    const float bias = args.bias == nullptr ? 0.0f : args.bias[i];
    y[i] = function(x[i]) * weight + bias;
  }
}

void NormRow(const NormArgs& args, const float* x, float* y) {
  if (args.kind == NormKind::kDyT || args.kind == NormKind::kDerf) {
    return MapRow(args, x, y, [&](float value) { return MapChannel(args, value); });
  }
  float mean = 0;
  if (args.kind == NormKind::kLayer) {
    mean = Sum(args.dim, [&](int64_t i) { return x[i]; }) / static_cast<float>(args.dim);
  }
  const float squares = Sum(args.dim, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  const float factor = InverseRms(squares, args.dim, args.eps);
  MapRow(args, x, y, [&](float value) { return (value - mean) * factor; });
}

}  // namespace

void CpuNorm(const NormArgs& args, const CpuStep& step, WorkerPool& pool) {
  const bool logits = args.tokens == TokenSet::kLogits;
  const auto rows = static_cast<int64_t>(logits ? step.logit_tokens.size() : step.tokens.size());
  const bool maps = args.kind == NormKind::kDyT || args.kind == NormKind::kDerf;
  ForItems(pool, rows, args.dim * (maps ? 8 : 1), [&](int64_t row) {
    const int64_t token = logits ? step.logit_tokens[static_cast<size_t>(row)] : row;
    NormRow(args, RowOf(args.x, token), MutableRowOf(args.y, row));
  });
}

}  // namespace evenflow
