#include "kernels/cpu/level_weights.h"

#include <vector>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/matmul.h"
#include "kernels/math/activations.h"

namespace evenflow {
namespace {

// y [rows, outputs] = x W^T + b
void Multiply(const float* x, int rows, const Weight& w, const float* bias, float* y) {
  Product product{
      .x = x, .x_stride = w.cols, .rows = rows, .w = w, .bias = bias, .y = y, .y_stride = w.rows};
  PackInputs(product, nullptr);
  MultiplyOutputs(product, 0, w.rows);
}

}  // namespace

void LevelWeights(const MemoryInputsArgs& args, const CpuStep& step, WorkerPool& pool) {
  const LevelWeightsArgs& weights = args.level_weights;
  const int heads = args.shape.heads;
  const int levels = args.shape.banks;
  const int64_t count = int64_t{heads} * levels;
  const auto tokens = static_cast<int64_t>(step.tokens.size());
  ForItems(pool, tokens, count * (weights.hidden / 4 + 16), [&](int64_t token) {
    const float* x = RowOf(args.projected, token) + weights.column;
    float* out = weights.out + token * count;
    if (weights.w1 == nullptr) {
      for (int64_t i = 0; i < count; ++i) {
        out[i] = Softplus(weights.scale[i] * x[i]);
      }
      return;
    }
    thread_local std::vector<float> hidden;
    hidden.resize(static_cast<size_t>(heads) * static_cast<size_t>(weights.hidden));
    Multiply(x, heads, {weights.w1, DType::kF32, weights.hidden, levels}, weights.b1,
             hidden.data());
    for (float& h : hidden) {
      h = Gelu(h);
    }
    Multiply(hidden.data(), heads, {weights.w2, DType::kF32, levels, weights.hidden}, weights.b2,
             out);
    for (int64_t i = 0; i < count; ++i) {
      out[i] = Softplus(out[i]);
    }
  });
}

}  // namespace evenflow
