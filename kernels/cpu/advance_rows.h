// How the memory drivers of the CPU share a layer's work among threads: a task is a row, a head and
// a part of its columns. Engine thread; Head objects live on the workers.
#ifndef EVENFLOW_KERNELS_CPU_ADVANCE_ROWS_H_
#define EVENFLOW_KERNELS_CPU_ADVANCE_ROWS_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cpu/head_memory.h"
#include "kernels/cpu/worker_pool.h"
#include "kernels/operations.h"
#include "kernels/step.h"

namespace evenflow {

inline constexpr int kUnitColumns = 64;  // tasks are split at multiples of it

inline int Units(int columns) {
  return (columns + kUnitColumns - 1) / kUnitColumns;
}

// Health of kUnitColumns columns of a head. Summed in one order, whoever computed them.
struct UnitHealth {
  double square = 0;
  float max_abs = 0;
  int32_t non_finite = 0;
};

// From StatePass::health [3, columns] of columns that begin at `begin`, a multiple of kUnitColumns,
// to the units of the head.
inline void SumColumns(const float* values, int begin, int columns, UnitHealth* health) {
  for (int c = 0; c < columns; c += kUnitColumns) {
    UnitHealth unit;
    for (int i = c; i < std::min(columns, c + kUnitColumns); ++i) {
      unit.square += static_cast<double>(values[i]);
      unit.max_abs = std::max(unit.max_abs, values[columns + i]);
      unit.non_finite += static_cast<int32_t>(values[2 * columns + i]);
    }
    health[(begin + c) / kUnitColumns] = unit;
  }
}

// Of all units of a row's heads, which have just been stored.
inline StateHealth SumUnits(const UnitHealth* units, int count) {
  StateHealth health;
  health.committed = true;
  double square = 0;
  for (int i = 0; i < count; ++i) {
    square += units[i].square;
    health.max_abs = std::max(health.max_abs, units[i].max_abs);
    health.non_finite += units[i].non_finite;
  }
  health.norm = static_cast<float>(std::sqrt(square));
  return health;
}

struct ColumnPlan {
  int units = 0;  // of a head
  int parts = 1;  // of a head's columns
  int tasks = 0;

  ColumnPlan(const MemoryShape& shape, int rows, int threads) : units(Units(shape.value_dim)) {
    const int heads = rows * shape.heads;
    if (threads > 1 && heads < 2 * threads) {
      parts = std::min(units, (2 * threads + heads - 1) / heads);
    }
    tasks = heads * parts;
  }
};

// Head(args, layout, row, head) has Run(begin, end, health), all tokens of the row for columns of
// the head, and AppendKeys(), which is called once all of them have been run. `health`: [row, head,
// unit].
template <class Head>
void AdvanceRows(const AdvanceArgs& args, const std::vector<RowState>& rows, WorkerPool& pool,
                 std::vector<UnitHealth>* health) {
  const MemoryLayout layout = LayoutOf(args.memory, args.shape, args.window, args.state_dtype);
  const ColumnPlan plan(args.shape, static_cast<int>(rows.size()), pool.threads());
  const int heads = args.shape.heads;
  health->resize(rows.size() * static_cast<size_t>(heads * plan.units));
  pool.For(plan.tasks, [&](int task) {
    const int row_head = task / plan.parts;
    const int part = task % plan.parts;
    Head head(args, layout, rows[static_cast<size_t>(row_head / heads)], row_head % heads);
    const int begin = plan.units * part / plan.parts * kUnitColumns;
    const int end =
        std::min(plan.units * (part + 1) / plan.parts * kUnitColumns, args.shape.value_dim);
    head.Run(begin, end, health->data() + ptrdiff_t{row_head} * plan.units);
    if (plan.parts == 1) {
      head.AppendKeys();
    }
  });
  if (plan.parts > 1) {
    for (const RowState& row : rows) {
      for (int head = 0; head < heads; ++head) {
        Head(args, layout, row, head).AppendKeys();
      }
    }
  }
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_ADVANCE_ROWS_H_
