// Advances all rows and heads of a layer, each by the driver of its memory.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "kernels/cpu/advance_rows.h"
#include "kernels/cpu/banked_advance.h"
#include "kernels/cpu/head_advance.h"
#include "kernels/cpu/step.h"

namespace evenflow {
void CpuAdvance(const AdvanceArgs& args, CpuStep& step, WorkerPool& pool) {
  if (step.rows.empty()) {
    return;
  }
  const MemoryLayout layout = LayoutOf(args.memory, args.shape, args.window, args.state_dtype);
  std::vector<RowState> rows;
  for (const Row& row : step.rows) {
    std::byte* layer =
        args.slots.base + static_cast<size_t>(row.slot) * args.slots.slot_bytes + args.layer_offset;
    const int64_t stored =
        row.position == 0 ? 0 : *reinterpret_cast<int64_t*>(layer + layout.committed_tokens);
    if (stored < 0 || stored > args.window.Base(row.position)) {
      std::abort();  // a slot that holds no session, or one set back by more than the window allows
    }
    rows.push_back({row, layer, stored});
  }
  std::vector<UnitHealth> units;
  VisitMemory(args.memory, [&]<class Memory>() {
    if constexpr (Banked<Memory>) {
      AdvanceBanked(args, rows, pool, &units);
    } else {
      AdvanceRows<HeadAdvance<Memory>>(args, rows, pool, &units);
    }
  });
  const int head_units = args.shape.heads * Units(args.shape.value_dim);
  for (size_t r = 0; r < rows.size(); ++r) {
    const Row& row = rows[r].row;
    const int64_t stored =
        std::max(rows[r].stored, args.window.Stored(row.position + row.tokens - 1));
    *reinterpret_cast<int64_t*>(rows[r].layer + layout.committed_tokens) = stored;
    if (stored > rows[r].stored) {
      step.health(r, args.memory_layer) =
          SumUnits(units.data() + r * static_cast<size_t>(head_units), head_units);
    }
  }
}

}  // namespace evenflow
