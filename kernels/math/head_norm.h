// The factors of the normalisations, for host and device, from sums over the channels, and the
// functions that stand in their place. Pure functions: any thread.
#ifndef EVENFLOW_KERNELS_MATH_HEAD_NORM_H_
#define EVENFLOW_KERNELS_MATH_HEAD_NORM_H_

#include <cmath>

#include "kernels/math/host_device.h"
#include "kernels/operations.h"

namespace evenflow {

// 1 / sqrt(mean + eps), mean being that of the squares over `dim` channels.
EVENFLOW_HOST_DEVICE inline float InverseRms(float sum_of_squares, int dim, float eps) {
  return 1.0f / std::sqrt(sum_of_squares / static_cast<float>(dim) + eps);
}

// Whether a norm goes by the sum of squares.
EVENFLOW_HOST_DEVICE inline bool SumsSquares(HeadNorm norm) {
  return norm == HeadNorm::kL2 || norm == HeadNorm::kUnit;
}

// What a head is multiplied by, given the sum of its channels or of their squares.
EVENFLOW_HOST_DEVICE inline float HeadNormFactor(HeadNorm norm, float sum) {
  switch (norm) {
    case HeadNorm::kL2:
      return 1.0f / std::sqrt(sum + 1e-6f);
    case HeadNorm::kSum:
      return 1.0f / sum;
    case HeadNorm::kSumEps:
      return 1.0f / (sum + 1e-4f);
    case HeadNorm::kUnit:
      return sum < 1e-24f ? 1e12f : 1.0f / std::sqrt(sum);
    case HeadNorm::kNone:
      break;
  }
  return 1.0f;
}

// Before weight and bias, a channel under kDyT or kDerf.
EVENFLOW_HOST_DEVICE inline float MapChannel(const NormArgs& args, float x) {
  return args.kind == NormKind::kDyT ? std::tanh(args.alpha * x)
                                     : std::erf(args.alpha * x + args.shift);
}

// 1 / the normaliser of linear attention, see MemoryOutputArgs.
EVENFLOW_HOST_DEVICE inline float NormalizerFactor(float normalizer, float floor) {
  const float floored = normalizer < floor ? floor : normalizer;
  return 1.0f / (floor > 0 ? floored : normalizer + 1e-10f);
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MATH_HEAD_NORM_H_
