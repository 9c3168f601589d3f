#include "kernels/cuda/launch.cuh"
#include "kernels/math/activations.h"

namespace evenflow {
namespace {

constexpr int kThreads = 256;
constexpr int kPart = 4 * kThreads;  // channels of a block

__global__ void MlpActivationKernel(MlpActivationArgs args) {
  AwaitInputs();
  const int64_t token = blockIdx.x;
  const int begin = static_cast<int>(blockIdx.y) * kPart;
#pragma unroll
  for (int i = begin + static_cast<int>(threadIdx.x); i < begin + kPart; i += kThreads) {
    if (i < args.size) {
      const float gate = Load(args.gate_up, token, i);
      const float up = Load(args.gate_up, token, int64_t{args.size} + i);
      Store(args.y, token, i, Activate(args.activation, gate) * up);
    }
  }
}

}  // namespace

void CudaMlpActivation(const MlpActivationArgs& args, const CudaStep& step) {
  const dim3 blocks(static_cast<unsigned>(step.token_count), CeilDiv(args.size, kPart));
  Launch(MlpActivationKernel, {blocks, kThreads}, step.stream, args);
}

}  // namespace evenflow
