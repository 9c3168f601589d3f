// The driver of banked memories. Engine thread.
#ifndef EVENFLOW_KERNELS_CPU_BANKED_ADVANCE_H_
#define EVENFLOW_KERNELS_CPU_BANKED_ADVANCE_H_

#include <vector>

#include "kernels/cpu/advance_rows.h"

namespace evenflow {

// As AdvanceRows, for the memories that have Banks.
void AdvanceBanked(const AdvanceArgs& args, const std::vector<RowState>& rows, WorkerPool& pool,
                   std::vector<UnitHealth>* health);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_BANKED_ADVANCE_H_
