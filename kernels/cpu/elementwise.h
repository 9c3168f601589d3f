// Loops over the channels of one token or head that several operations share. Pure functions: any
// thread.
#ifndef EVENFLOW_KERNELS_CPU_ELEMENTWISE_H_
#define EVENFLOW_KERNELS_CPU_ELEMENTWISE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/worker_pool.h"
#include "kernels/operations.h"

namespace evenflow {

inline const float* RowOf(const Matrix& matrix, int64_t row) {
  return static_cast<const float*>(matrix.data) + row * matrix.stride;
}

inline float* MutableRowOf(const Matrix& matrix, int64_t row) {
  return static_cast<float*>(matrix.data) + row * matrix.stride;
}

// sum of term(i) for i in [0, count), in an order that depends on count alone: partial sums that a
// compiler can keep in vectors without changing any of them.
template <class Term>
float Sum(int64_t count, const Term& term) {
  constexpr int kPartial = 16;
  float partial[kPartial] = {};
  int64_t i = 0;
  for (; i + kPartial <= count; i += kPartial) {
    for (int j = 0; j < kPartial; ++j) {
      partial[j] += term(i + j);
    }
  }
  float sum = 0;
  for (; i < count; ++i) {
    sum += term(i);
  }
  for (const float p : partial) {
    sum += p;
  }
  return sum;
}

// x <- act(x), [count]
void Activate(Activation activation, float* x, int64_t count);

// Runs run(i) for i in [0, items) on the pool, or on the caller where there is too little to do:
// a parallel loop costs a few microseconds. `work` counts elements that cost about a nanosecond.
template <class Run>
void ForItems(WorkerPool& pool, int64_t items, int64_t work_per_item, const Run& run) {
  constexpr int64_t kWorkPerShare = 8192;
  const int64_t shares = std::clamp<int64_t>(items * work_per_item / kWorkPerShare, 1,
                                             std::min<int64_t>(items, 4 * pool.threads()));
  if (items == 0) {
    return;
  }
  pool.For(static_cast<int>(shares), [&](int share) {
    for (int64_t i = items * share / shares; i < items * (share + 1) / shares; ++i) {
      run(i);
    }
  });
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_ELEMENTWISE_H_
