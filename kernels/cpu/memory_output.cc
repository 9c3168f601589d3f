#include <cstring>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/step.h"
#include "kernels/math/head_norm.h"

namespace evenflow {
namespace {

// One head of one token, each [value_dim].
struct HeadOutput {
  const float* o;
  const float* skip;  // nullptr: none
  const float* skip_weight;
  const float* gate;    // nullptr: none
  const float* weight;  // nullptr: ones
  const float* bias;    // nullptr: zeros
  float* y;
};

// y <- y (layer norm(o) weight + bias + skip), y being the gate.
void GroupNormHead(const MemoryOutputArgs& args, const HeadOutput& head) {
  const int dim = args.value_dim;
  const float* const o = head.o;
  const float mean = Sum(dim, [&](int64_t i) { return o[i]; }) / static_cast<float>(dim);
  const float squares = Sum(dim, [&](int64_t i) { return (o[i] - mean) * (o[i] - mean); });
  const float factor = InverseRms(squares, dim, args.eps);
  for (int i = 0; i < dim; ++i) {
    const float weight = head.weight == nullptr ? 1.0f : head.weight[i];
    const float bias = head.bias == nullptr ? 0.0f : head.bias[i];
    const float skip = head.skip == nullptr ? 0.0f : head.skip[i];
    head.y[i] *= (o[i] - mean) * factor * weight + bias + skip;
  }
}

void OutputHead(const MemoryOutputArgs& args, const HeadOutput& head) {
  const int dim = args.value_dim;
  float* const y = head.y;
  const float scale = args.normalizer ? NormalizerFactor(head.o[dim], args.normalizer_floor) : 1.0f;
  const auto read = [&](int64_t i) {
    const float o = head.o[i] * scale;
    const bool adds = head.skip != nullptr && args.norm != OutputNorm::kGroup;
    return adds ? o + head.skip_weight[i] * head.skip[i] : o;
  };
  // The gate may lie where y does.
  if (head.gate == nullptr) {
    for (int i = 0; i < dim; ++i) {
      y[i] = 1.0f;
    }
  } else {
    std::memmove(y, head.gate, static_cast<size_t>(dim) * sizeof(float));
    Activate(args.gate_activation, y, dim);
  }
  if (args.norm == OutputNorm::kGroup) {
    return GroupNormHead(args, head);
  }
  float factor = 1.0f;
  if (args.norm == OutputNorm::kBeforeGate) {
    factor = InverseRms(Sum(dim, [&](int64_t i) { return read(i) * read(i); }), dim, args.eps);
  } else if (args.norm == OutputNorm::kAfterGate) {
    const auto square = [&](int64_t i) { return (read(i) * y[i]) * (read(i) * y[i]); };
    factor = InverseRms(Sum(dim, square), dim, args.eps);
  }
  for (int i = 0; i < dim; ++i) {
    const float weight = head.weight == nullptr ? 1.0f : head.weight[i];
    y[i] *= read(i) * factor * weight;
  }
}

const float* ColumnOf(const Matrix& matrix, int64_t token, int64_t column) {
  return matrix.data == nullptr ? nullptr : RowOf(matrix, token) + column;
}

}  // namespace

void CpuMemoryOutput(const MemoryOutputArgs& args, const CpuStep& step, WorkerPool& pool) {
  constexpr int64_t kWorkPerElement = 8;
  const int64_t stride = args.value_dim + (args.normalizer ? 1 : 0);
  const int64_t items = static_cast<int64_t>(step.tokens.size()) * args.heads;
  ForItems(pool, items, args.value_dim * kWorkPerElement, [&](int64_t item) {
    const int64_t token = item / args.heads;
    const int64_t column = item % args.heads * args.value_dim;
    const bool own_weight = args.weight != nullptr && args.weight_per_head;
    OutputHead(args,
               {args.o + item * stride, ColumnOf(args.skip, token, column),
                args.skip_weight == nullptr ? nullptr : args.skip_weight + column,
                ColumnOf(args.gate, token, column), own_weight ? args.weight + column : args.weight,
                args.bias == nullptr ? nullptr : args.bias + column,
                MutableRowOf(args.y, token) + column});
  });
}

}  // namespace evenflow
