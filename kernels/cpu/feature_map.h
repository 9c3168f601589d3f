// Feature maps of query and key heads. Pure functions: any thread.
#ifndef EVENFLOW_KERNELS_CPU_FEATURE_MAP_H_
#define EVENFLOW_KERNELS_CPU_FEATURE_MAP_H_

#include "kernels/operations.h"

namespace evenflow {

// to[head] = map(from[head]); from [heads, dim] and to [heads, MappedSize] do not overlap.
void MapHeads(const FeatureMapArgs& args, int heads, int dim, const float* from, float* to);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_FEATURE_MAP_H_
