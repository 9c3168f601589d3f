// Matrix products: cuBLASLt, and a kernel of our own for a few rows of bf16. Owned by the CUDA
// backend; engine thread.
#ifndef EVENFLOW_KERNELS_CUDA_MATMUL_H_
#define EVENFLOW_KERNELS_CUDA_MATMUL_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include <cublasLt.h>

#include "kernels/cuda/step.h"

namespace evenflow {

class CudaMatMul {
 public:
  // nullptr, and why in *error, when cuBLASLt does not start.
  static std::unique_ptr<CudaMatMul> Create(std::string* error);
  ~CudaMatMul();

  // Enqueues args on the step's stream. Returns false if cuBLASLt refuses. Sums are fp32; operands
  // are of x's type: a weight of another one is converted at its first use and kept so.
  bool Run(const MatMulArgs& args, const CudaStep& step);

  // That weight is about to be freed.
  void Forget(const void* weight);

 private:
  // What an algorithm is chosen for: rows (rounded), inputs, outputs, strides, types, alignments.
  using Problem = std::array<int64_t, 10>;

  CudaMatMul() = default;
  const void* Converted(const Weight& w, DType dtype, cudaStream_t stream);
  bool Multiply(const MatMulArgs& args, const void* weight, int rows, cudaStream_t stream);

  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Problem, cublasLtMatmulAlgo_t> algorithms_;
  std::map<const void*, void*> converted_;  // of each weight
};

// Whether the kernel for a few rows serves this product: bf16 operands in whole 16-byte pieces.
bool ServesFewRows(const MatMulArgs& args, int rows);

// The product of at most kMaxFewRows rows: every weight is read once, at the memory's speed.
inline constexpr int kMaxFewRows = 16;
void CudaMatMulFewRows(const MatMulArgs& args, int rows, cudaStream_t stream);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_MATMUL_H_
