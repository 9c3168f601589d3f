#include "kernels/cuda/launch.cuh"

namespace evenflow {
namespace {

constexpr int kThreads = 256;

__global__ void EmbedKernel(EmbedArgs args, const int32_t* tokens) {
  AwaitInputs();
  const int64_t token = blockIdx.x;
  const int64_t first = tokens[token] * args.table.cols;
  for (int64_t i = threadIdx.x; i < args.table.cols; i += kThreads) {
    Store(args.out, token, i, Load(args.table.data, args.table.dtype, first + i));
  }
}

}  // namespace

void CudaEmbed(const EmbedArgs& args, const CudaStep& step) {
  Launch(EmbedKernel, {dim3(static_cast<unsigned>(step.token_count)), kThreads}, step.stream, args,
         step.tokens);
}

}  // namespace evenflow
