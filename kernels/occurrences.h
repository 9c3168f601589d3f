// Which tokens the penalties of a sampling row fall on. Pure function: any thread.
#ifndef EVENFLOW_KERNELS_OCCURRENCES_H_
#define EVENFLOW_KERNELS_OCCURRENCES_H_

#include <cstdint>
#include <vector>

#include "kernels/math/sampling.h"
#include "kernels/sampling.h"

namespace evenflow {

struct SeenToken {
  int32_t token = 0;
  Occurrences occurrences;
};

// True if anything that was seen changes a logit.
bool HasPenalties(const SamplingParams& params);

// The tokens below `vocab` among those that the row looks back at, ascending, but for the newest
// where it is not in the ring. REQUIRES: HasPenalties(*row.params).
void FindOccurrences(const SamplingRow& row, int vocab, std::vector<SeenToken>* seen);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_OCCURRENCES_H_
