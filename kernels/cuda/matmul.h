// Matrix products: cuBLASLt, and kernels of our own for a few rows of bf16, and for what that does
// not serve where a row's result may not depend on the others. Owned by the CUDA backend; engine
// thread.
#ifndef EVENFLOW_KERNELS_CUDA_MATMUL_H_
#define EVENFLOW_KERNELS_CUDA_MATMUL_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/step.h"

namespace evenflow {

// What the kernel for a few rows does beside a product, in place of launches of their own.
struct Beside {
  LeftFactors lacks = {};  // of x
  // What follows: at most one.
  const NormArgs* norm = nullptr;          // of y
  const MlpActivationArgs* mlp = nullptr;  // of y, which stays unwritten
  LeftFactors leaves = {};                 // by the norm
};

inline int RowsOf(const MatMulArgs& args, const CudaStep& step) {
  return args.tokens == TokenSet::kLogits ? step.logit_count : step.token_count;
}

inline Matrix RowsFrom(const Matrix& matrix, int64_t first) {
  const size_t offset = static_cast<size_t>(first * matrix.stride) * ByteSize(matrix.dtype);
  return {static_cast<std::byte*>(matrix.data) + offset, matrix.dtype, matrix.stride};
}

class CudaMatMul {
 public:
  // nullptr, and why in *error, when cuBLASLt is not there or does not start.
  static std::unique_ptr<CudaMatMul> Create(bool batch_invariant, std::string* error);
  ~CudaMatMul();

  // Enqueues args on the step's stream. Returns false if cuBLASLt refuses. Sums are fp32; operands
  // are of x's type: a weight of another one is converted at its first use and kept so. REQUIRES
  // where something is beside it: RunsBeside, and that it CanFollow.
  bool Run(const MatMulArgs& args, const Beside& beside, const CudaStep& step);

  // Whether something can be beside it: whether a kernel of our own serves it.
  bool RunsBeside(const MatMulArgs& args, const CudaStep& step) const;

  // Whether the factors of these heads can be left to the product that reads them.
  bool TakesFactors(const MemoryOutputArgs& args, const CudaStep& step) const;

  // What these leave to the product that reads their y, with room for squares until the second
  // operation from now that leaves any. Without memory it leaves nothing (data is nullptr), and the
  // runtime has the error.
  LeftFactors Leave(const NormArgs& args, int rows);
  LeftFactors Leave(const MemoryOutputArgs& args, int rows);

  // That weight is about to be freed.
  void Forget(const void* weight);

 private:
  // What an algorithm is chosen for: rows (rounded), inputs, outputs, strides, types, alignments.
  using Problem = std::array<int64_t, 10>;

  CudaMatMul() = default;
  bool RunsInTiles(const MatMulArgs& args, int rows) const;
  const void* Converted(const Weight& w, DType dtype, cudaStream_t stream);
  bool Multiply(const MatMulArgs& args, const void* weight, int rows, cudaStream_t stream);
  LeftFactors WithSquares(LeftFactors left, int rows);

  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  CudaScratch squares_[2];  // of the newest operation that leaves some, and of the one before it
  int newest_ = 0;
  bool batch_invariant_ = false;  // nothing by cuBLASLt
  bool has_tiles_ = false;
  std::map<Problem, cublasLtMatmulAlgo_t> algorithms_;
  std::map<const void*, void*> converted_;  // of each weight
};

// Whether the kernels for few rows serve this product, its weights being bf16: all must come in
// whole 16-byte pieces. And whether they can do what follows it, too.
bool ServesFewRows(const MatMulArgs& args);
bool CanFollow(const MatMulArgs& args, const NormArgs& norm);
bool CanFollow(const MatMulArgs& args, const MlpActivationArgs& mlp);

// For how many rows they read W once: matmul_few_rows.cu, and matmul_tiles.cu, where HasTiles, for
// those of these products that are InTiles.
inline constexpr int kMaxFewRows = 16;
inline constexpr int kMaxTileRows = 64;
inline constexpr int kMaxSquareParts = 1024;
bool HasTiles();
bool InTiles(const MatMulArgs& args);

// Into how many sums a row's squares are cut.
int SquareParts(int64_t dim);

struct FewRows {
  int rows = 0;
  bool tiles = false;  // by matmul_tiles.cu
  cudaStream_t stream = nullptr;
};

// Any number of rows; a row's result does not depend on the others. Heads whose factors x lacks are
// kMaxLeftHeads at most, each of whole kLeftColumns.
inline constexpr int kMaxLeftHeads = 32;
inline constexpr int kLeftColumns = 64;
void CudaMatMulFewRows(const MatMulArgs& args, const Beside& beside, const FewRows& few);

// Any product, slowly; a row's result does not depend on the others.
void CudaMatMulAny(const MatMulArgs& args, int rows, cudaStream_t stream);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_MATMUL_H_
