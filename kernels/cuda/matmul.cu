#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/memory_output.cuh"

namespace evenflow {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA advises for Hopper
constexpr int kThreads = 256;
static_assert(kLeftColumns == kPartTiles * kTile);  // a part of what MemoryOutput leaves

cudaDataType TypeOf(DType dtype) {
  return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

// The largest power of two, at most 256, that divides an address.
uint32_t AlignmentOf(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  return static_cast<uint32_t>(std::min<uintptr_t>(address & (~address + 1), 256));
}

// Rows that share an algorithm: powers of two, and what lies in the middle between two of them.
int64_t RoundedRows(int64_t rows) {
  int64_t power = 1;
  while (power < rows) {
    power *= 2;
  }
  return power >= 32 && rows <= power / 4 * 3 ? power / 4 * 3 : power;
}

__global__ void ConvertKernel(Weight from, DType dtype, void* to) {
  AwaitInputs();
  const int64_t count = from.rows * from.cols;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    Store(to, dtype, i, Load(from.data, from.dtype, i));
  }
}

// y = bias, or y += bias.
__global__ void BiasKernel(Matrix y, const float* bias, int64_t columns, bool add) {
  AwaitInputs();
  const int64_t row = blockIdx.x;
  for (int64_t i = threadIdx.x; i < columns; i += kThreads) {
    Store(y, row, i, bias[i] + (add ? Load(y, row, i) : 0.0f));
  }
}

// cuBLASLt is column-major: y^T [outputs, rows] = W [outputs, inputs] x^T [inputs, rows].
struct Layouts {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t w, x, y;

  Layouts(const MatMulArgs& args, int64_t rows) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                   sizeof(transposed));
    const auto inputs = static_cast<uint64_t>(args.w.cols);
    const auto outputs = static_cast<uint64_t>(args.w.rows);
    const auto count = static_cast<uint64_t>(rows);
    cublasLtMatrixLayoutInit(&w, TypeOf(args.x.dtype), inputs, outputs, args.w.cols);
    cublasLtMatrixLayoutInit(&x, TypeOf(args.x.dtype), inputs, count, args.x.stride);
    cublasLtMatrixLayoutInit(&y, TypeOf(args.y.dtype), outputs, count, args.y.stride);
  }
};

bool FindAlgorithm(cublasLtHandle_t handle, const MatMulArgs& args, const void* weight,
                   int64_t rows, cublasLtMatmulAlgo_t* algorithm) {
  Layouts layouts(args, rows);
  cublasLtMatmulPreferenceOpaque_t preference;
  cublasLtMatmulPreferenceInit(&preference);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, AlignmentOf(weight));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, AlignmentOf(args.x.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, AlignmentOf(args.y.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, AlignmentOf(args.y.data));
  cublasLtMatmulHeuristicResult_t result = {};
  int found = 0;
  if (cublasLtMatmulAlgoGetHeuristic(handle, &layouts.operation, &layouts.w, &layouts.x, &layouts.y,
                                     &layouts.y, &preference, 1, &result,
                                     &found) != CUBLAS_STATUS_SUCCESS ||
      found == 0) {
    return false;
  }
  *algorithm = result.algo;
  return true;
}

}  // namespace

std::unique_ptr<CudaMatMul> CudaMatMul::Create(bool batch_invariant, std::string* error) {
  std::unique_ptr<CudaMatMul> matmul(new CudaMatMul);
  matmul->batch_invariant_ = batch_invariant;
  matmul->has_tiles_ = HasTiles();
  if (!LoadCublasLt(error)) {
    return nullptr;
  }
  const cublasStatus_t status = cublasLtCreate(&matmul->handle_);
  if (status != CUBLAS_STATUS_SUCCESS) {
    *error = "cuBLASLt does not start: status " + std::to_string(status);
    return nullptr;
  }
  if (cudaMalloc(&matmul->workspace_, kWorkspaceBytes) != cudaSuccess) {
    *error = "there is no device memory for the workspace of products";
    return nullptr;
  }
  return matmul;
}

CudaMatMul::~CudaMatMul() {
  for (const auto& [weight, copy] : converted_) {
    cudaFree(copy);
  }
  cudaFree(workspace_);
  if (handle_ != nullptr) {
    cublasLtDestroy(handle_);
  }
}

void CudaMatMul::Forget(const void* weight) {
  const auto found = converted_.find(weight);
  if (found != converted_.end()) {
    cudaFree(found->second);
    converted_.erase(found);
  }
}

const void* CudaMatMul::Converted(const Weight& w, DType dtype, cudaStream_t stream) {
  if (w.dtype == dtype) {
    return w.data;
  }
  void*& copy = converted_[w.data];
  if (copy == nullptr) {
    const int64_t count = w.rows * w.cols;
    if (cudaMalloc(&copy, static_cast<size_t>(count) * ByteSize(dtype)) != cudaSuccess) {
      return nullptr;
    }
    const unsigned blocks = std::min(CeilDiv(count, kThreads), 4096u);
    Launch(ConvertKernel, {dim3(blocks), kThreads}, stream, w, dtype, copy);
    cudaStreamSynchronize(stream);  // a product may read weights before the kernels ahead are done
  }
  return copy;
}

bool CudaMatMul::RunsInTiles(const MatMulArgs& args, int rows) const {
  return has_tiles_ && InTiles(args) &&
         (batch_invariant_ || (rows > kMaxFewRows && rows <= kMaxTileRows));
}

bool CudaMatMul::RunsBeside(const MatMulArgs& args, const CudaStep& step) const {
  const int rows = RowsOf(args, step);
  return ServesFewRows(args) &&
         (batch_invariant_ || rows <= kMaxFewRows || RunsInTiles(args, rows));
}

bool CudaMatMul::TakesFactors(const MemoryOutputArgs& args, const CudaStep& step) const {
  const int64_t columns = int64_t{args.heads} * args.value_dim;
  const int most = has_tiles_ ? kMaxTileRows : kMaxFewRows;
  MatMulArgs product;  // as far as it is known
  product.x = args.y;
  product.w.cols = columns;
  return args.feeds_product &&
         (args.norm == OutputNorm::kBeforeGate || args.norm == OutputNorm::kAfterGate) &&
         args.heads <= kMaxLeftHeads && args.value_dim % kLeftColumns == 0 &&
         ServesFewRows(product) && (batch_invariant_ || step.token_count <= most);
}

LeftFactors CudaMatMul::Leave(const NormArgs& args, int rows) {
  return WithSquares({args.y.data, nullptr, 1, SquareParts(args.dim), args.dim, args.eps}, rows);
}

LeftFactors CudaMatMul::Leave(const MemoryOutputArgs& args, int rows) {
  const auto parts = static_cast<int>(CeilDiv(args.value_dim, kLeftColumns));
  return WithSquares({args.y.data, nullptr, args.heads, parts, args.value_dim, args.eps}, rows);
}

LeftFactors CudaMatMul::WithSquares(LeftFactors left, int rows) {
  newest_ ^= 1;
  left.squares = static_cast<float*>(squares_[newest_].Take(
      sizeof(float) * static_cast<size_t>(rows) * static_cast<size_t>(left.heads * left.parts)));
  return left.squares == nullptr ? LeftFactors{} : left;
}

bool CudaMatMul::Run(const MatMulArgs& args, const Beside& beside, const CudaStep& step) {
  const int rows = RowsOf(args, step);
  if (rows == 0) {
    return true;
  }
  const void* const weight = Converted(args.w, args.x.dtype, step.stream);
  if (weight == nullptr) {
    return false;
  }
  MatMulArgs product = args;
  product.w.data = weight;
  product.w.dtype = args.x.dtype;
  if (RunsBeside(product, step) || beside.lacks.data != nullptr) {
    if (beside.norm != nullptr && beside.leaves.data == nullptr) {
      return false;
    }
    CudaMatMulFewRows(product, beside, {rows, RunsInTiles(product, rows), step.stream});
    return true;
  }
  if (batch_invariant_) {
    CudaMatMulAny(product, rows, step.stream);
    return true;
  }
  return Multiply(product, weight, rows, step.stream);
}

bool CudaMatMul::Multiply(const MatMulArgs& args, const void* weight, int rows,
                          cudaStream_t stream) {
  const Problem problem = {RoundedRows(rows),
                           args.w.cols,
                           args.w.rows,
                           args.x.stride,
                           args.y.stride,
                           static_cast<int64_t>(args.x.dtype),
                           static_cast<int64_t>(args.y.dtype),
                           AlignmentOf(weight),
                           AlignmentOf(args.x.data),
                           AlignmentOf(args.y.data)};
  auto found = algorithms_.find(problem);
  if (found == algorithms_.end()) {
    cublasLtMatmulAlgo_t algorithm;
    if (!FindAlgorithm(handle_, args, weight, problem[0], &algorithm)) {
      return false;
    }
    found = algorithms_.emplace(problem, algorithm).first;
  }
  if (args.bias != nullptr) {
    Launch(BiasKernel, {dim3(static_cast<unsigned>(rows)), kThreads}, stream, args.y, args.bias,
           args.w.rows, args.add);
  }
  Layouts layouts(args, rows);
  const float one = 1;
  const float beta = args.add || args.bias != nullptr ? 1.0f : 0.0f;
  return cublasLtMatmul(handle_, &layouts.operation, &one, weight, &layouts.w, args.x.data,
                        &layouts.x, &beta, args.y.data, &layouts.y, args.y.data, &layouts.y,
                        &found->second, workspace_, kWorkspaceBytes,
                        stream) == CUBLAS_STATUS_SUCCESS;
}

}  // namespace evenflow
