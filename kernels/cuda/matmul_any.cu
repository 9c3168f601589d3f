// y = x W^T of any alignment, a warp an output: for what matmul_few_rows.cu does not serve where a
// row's result may not depend on the others.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"

namespace evenflow {
namespace {

constexpr int kWarps = 8;

__global__ void __launch_bounds__(32 * kWarps) AnyKernel(MatMulArgs args) {
  AwaitInputs();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t row = blockIdx.x;
  const int64_t output = int64_t{blockIdx.y} * kWarps + threadIdx.x / 32;
  if (output >= args.w.rows) {
    return;
  }
  float sum = 0;
  for (int64_t i = lane; i < args.w.cols; i += 32) {
    sum += Load(args.w.data, args.w.dtype, output * args.w.cols + i) * Load(args.x, row, i);
  }
  sum = WarpSum(sum);
  if (lane == 0) {
    sum += args.bias == nullptr ? 0.0f : args.bias[output];
    sum += args.add ? Load(args.y, row, output) : 0.0f;
    Store(args.y, row, output, sum);
  }
}

}  // namespace

void CudaMatMulAny(const MatMulArgs& args, int rows, cudaStream_t stream) {
  const dim3 blocks(static_cast<unsigned>(rows), CeilDiv(args.w.rows, kWarps));
  Launch(AnyKernel, {blocks, 32 * kWarps}, stream, args);
}

}  // namespace evenflow
