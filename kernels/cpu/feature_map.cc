#include "kernels/cpu/feature_map.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/matmul.h"
#include "kernels/math/activations.h"
#include "kernels/math/feature_map.h"

namespace evenflow {
namespace {

// y = W x + b for every head; W [dim, dim].
void Project(const float* w, const float* b, int heads, int dim, const float* from, float* to,
             int64_t to_stride) {
  Product product{.x = from,
                  .x_stride = dim,
                  .rows = heads,
                  .w = {.data = w, .dtype = DType::kF32, .rows = dim, .cols = dim},
                  .bias = b,
                  .y = to,
                  .y_stride = to_stride};
  PackInputs(product, nullptr);
  MultiplyOutputs(product, 0, dim);
}

// y [2 dim] <- softmax([2 y, -2 y]) of its first half.
void HedgehogHead(int dim, float* y) {
  float top = 0;
  for (int i = 0; i < dim; ++i) {
    y[i] *= 2;
    y[dim + i] = -y[i];
    top = std::fabs(y[i]) > top ? std::fabs(y[i]) : top;
  }
  for (int i = 0; i < 2 * dim; ++i) {
    y[i] = std::exp(y[i] - top);
  }
  const float factor = 1.0f / Sum(2 * dim, [&](int64_t i) { return y[i]; });
  for (int i = 0; i < 2 * dim; ++i) {
    y[i] *= factor;
  }
}

}  // namespace

void MapHeads(const FeatureMapArgs& args, int heads, int dim, const float* from, float* to) {
  const int64_t count = static_cast<int64_t>(heads) * dim;
  const auto copy_and = [&](Activation activation) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
    Activate(activation, to, count);
  };
  switch (args.map) {
    case FeatureMap::kIdentity:
      return copy_and(Activation::kNone);
    case FeatureMap::kSilu:
      return copy_and(Activation::kSilu);
    case FeatureMap::kRelu:
      return copy_and(Activation::kRelu);
    case FeatureMap::kElu1:
      return copy_and(Activation::kElu1);
    case FeatureMap::kElementwiseProduct: {
      thread_local std::vector<float> second;
      second.resize(static_cast<size_t>(count));
      Project(args.w1, args.b1, heads, dim, from, to, dim);
      Project(args.w2, args.b2, heads, dim, from, second.data(), dim);
      for (int64_t i = 0; i < count; ++i) {
        to[i] *= second[static_cast<size_t>(i)];
      }
      return;
    }
    case FeatureMap::kT2R:
      Project(args.w1, args.b1, heads, dim, from, to, dim);
      return Activate(Activation::kRelu, to, count);
    case FeatureMap::kHedgehog:
      Project(args.w1, args.b1, heads, dim, from, to, 2 * dim);
      for (int head = 0; head < heads; ++head) {
        HedgehogHead(dim, to + static_cast<int64_t>(head) * 2 * dim);
      }
      return;
    case FeatureMap::kDpfp:
      for (int head = 0; head < heads; ++head) {
        for (int i = 0; i < MappedSize(args.map, dim); ++i) {
          *to++ = DpfpChannel(from + static_cast<int64_t>(head) * dim, dim, i);
        }
      }
      return;
  }
}

}  // namespace evenflow
