// Matrix products: cuBLASLt, and a kernel of our own for a few rows of bf16. Owned by the CUDA
// backend; engine thread.
#ifndef EVENFLOW_KERNELS_CUDA_MATMUL_H_
#define EVENFLOW_KERNELS_CUDA_MATMUL_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <cublasLt.h>

#include "kernels/cuda/step.h"

namespace evenflow {

// What a product's x is computed from, where it was not written. At most one is set.
struct ProductInput {
  std::optional<NormArgs> norm;
  std::optional<MlpActivationArgs> mlp;

  // Where x would have been.
  const void* y() const { return norm ? norm->y.data : mlp ? mlp->y.data : nullptr; }
};

inline int RowsOf(const MatMulArgs& args, const CudaStep& step) {
  return args.tokens == TokenSet::kLogits ? step.logit_count : step.token_count;
}

class CudaMatMul {
 public:
  // nullptr, and why in *error, when cuBLASLt does not start.
  static std::unique_ptr<CudaMatMul> Create(std::string* error);
  ~CudaMatMul();

  // Enqueues args on the step's stream. Returns false if cuBLASLt refuses. Sums are fp32; operands
  // are of x's type: a weight of another one is converted at its first use and kept so. With an
  // `input`, x is computed on the way. REQUIRES then: CanCompute.
  bool Run(const MatMulArgs& args, const ProductInput& input, const CudaStep& step);

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

// Whether the kernel for a few rows serves this product, its weights being bf16: all must come in
// whole 16-byte pieces. And whether it can compute such an input as it goes.
inline constexpr int kMaxFewRows = 16;
bool ServesFewRows(const MatMulArgs& args, int rows);
bool CanCompute(const ProductInput& input, const MatMulArgs& args, int rows);

struct FewRows {
  int rows = 0;
  cudaStream_t stream = nullptr;
};

// The product of at most kMaxFewRows rows: every weight is read once, at the memory's speed.
void CudaMatMulFewRows(const MatMulArgs& args, const ProductInput& input, const FewRows& call);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_MATMUL_H_
