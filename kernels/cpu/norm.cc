#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/step.h"
#include "kernels/math/head_norm.h"

namespace evenflow {
namespace {

void NormRow(const NormArgs& args, const float* x, float* y) {
  float mean = 0;
  if (args.kind == NormKind::kLayer) {
    mean = Sum(args.dim, [&](int64_t i) { return x[i]; }) / static_cast<float>(args.dim);
  }
  const float squares = Sum(args.dim, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  const float factor = InverseRms(squares, args.dim, args.eps);
  for (int i = 0; i < args.dim; ++i) {
    const float weight = args.weight == nullptr ? 1.0f : args.weight[i];
    const float bias = args.bias == nullptr ? 0.0f : args.bias[i];
    y[i] = (x[i] - mean) * factor * weight + bias;
  }
}

}  // namespace

void CpuNorm(const NormArgs& args, const CpuStep& step, WorkerPool& pool) {
  const bool logits = args.tokens == TokenSet::kLogits;
  const auto rows = static_cast<int64_t>(logits ? step.logit_tokens.size() : step.tokens.size());
  ForItems(pool, rows, args.dim, [&](int64_t row) {
    const int64_t token = logits ? step.logit_tokens[static_cast<size_t>(row)] : row;
    NormRow(args, RowOf(args.x, token), MutableRowOf(args.y, row));
  });
}

}  // namespace evenflow
