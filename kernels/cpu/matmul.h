// The batch-invariant product y = x W^T, one thread's share of it. Pure functions: any thread, as
// long as the outputs differ.
//
// Every (row, output) pair is summed in one order, whatever else is computed beside it: SIMD lane l
// adds the products of the inputs k = l modulo the number of lanes, in ascending order with fused
// multiply-adds; then the lanes are added up. Tiles of rows and outputs, blocks of K and threads
// only choose when a sum goes on, never its order. So a row's result is the same, bit for bit, for
// every number of rows and threads, on one instruction set.
#ifndef EVENFLOW_KERNELS_CPU_MATMUL_H_
#define EVENFLOW_KERNELS_CPU_MATMUL_H_

#include <cstdint>

#include "kernels/cpu/worker_pool.h"
#include "kernels/tensor.h"

namespace evenflow {

struct Product {
  const float* x = nullptr;  // [rows, x_stride], the first w.cols of each row
  int64_t x_stride = 0;
  int64_t rows = 0;
  Weight w;
  const float* bias = nullptr;  // [w.rows] or nullptr
  float* y = nullptr;           // [rows, y_stride], the first w.rows of each row
  int64_t y_stride = 0;
  bool add = false;               // y += instead of y =
  const float* packed = nullptr;  // see PackInputs
};

// To be called before MultiplyOutputs: where there are many rows, lays x out as the product reads
// it, in a buffer of the calling thread that stays valid until its next call. `pool` may be
// nullptr.
void PackInputs(Product& product, WorkerPool* pool);

// Computes the outputs [first, last) of every row.
void MultiplyOutputs(const Product& product, int64_t first, int64_t last);

// Outputs come in groups of this many; shares that begin at multiples of it waste nothing.
inline constexpr int64_t kOutputGroup = 6;

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_MATMUL_H_
