#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sample.h"

namespace evenflow {
namespace {

constexpr int kThreads = 256;

__global__ void EmbedKernel(EmbedArgs args, int32_t* tokens, const CudaSampled* drawn) {
  AwaitInputs();
  const int64_t token = blockIdx.x;
  int32_t id = tokens[token];
  if (id < 0) {  // DrawnAt
    id = max(drawn[-1 - id].token, 0);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    tokens[token] = id;
  }
  const int64_t first = id * args.table.cols;
  for (int64_t i = threadIdx.x; i < args.table.cols; i += kThreads) {
    Store(args.out, token, i, Load(args.table.data, args.table.dtype, first + i));
  }
}

}  // namespace

void CudaEmbed(const EmbedArgs& args, const CudaStep& step) {
  Launch(EmbedKernel, {dim3(static_cast<unsigned>(step.token_count)), kThreads}, step.stream, args,
         step.tokens, step.drawn);
}

}  // namespace evenflow
