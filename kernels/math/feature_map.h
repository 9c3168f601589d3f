// Feature maps of query and key heads, for host and device. Pure functions: any thread.
#ifndef EVENFLOW_KERNELS_MATH_FEATURE_MAP_H_
#define EVENFLOW_KERNELS_MATH_FEATURE_MAP_H_

#include "kernels/math/activations.h"
#include "kernels/math/host_device.h"
#include "kernels/operations.h"

namespace evenflow {

inline constexpr int kDpfpRolls = 4;

// Channels of a head of `dim` channels after the map.
EVENFLOW_HOST_DEVICE constexpr int MappedSize(FeatureMap map, int dim) {
  switch (map) {
    case FeatureMap::kHedgehog:
      return 2 * dim;
    case FeatureMap::kDpfp:
      return 2 * kDpfpRolls * dim;
    default:
      return dim;
  }
}

// Channel i of DPFP (arXiv 2102.11174): u[c] u[c - j] for j = 1..4 and c in [0, 2 dim),
// u = [relu x, -relu x] and indices cyclic.
EVENFLOW_HOST_DEVICE inline float DpfpChannel(const float* x, int dim, int i) {
  const int size = 2 * dim;
  const int c = i % size;
  const int rolled = (c - (i / size + 1) + size) % size;
  const float u = c < dim ? Relu(x[c]) : -Relu(x[c - dim]);
  return u * (rolled < dim ? Relu(x[rolled]) : -Relu(x[rolled - dim]));
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MATH_FEATURE_MAP_H_
