#include "kernels/cuda/launch.cuh"
#include "kernels/math/activations.h"

namespace evenflow {
namespace {

constexpr int kThreads = 256;
constexpr int kPart = 2 * kThreads;  // channels of a block

template <class T>
__global__ void __launch_bounds__(kThreads) MlpActivationKernel(MlpActivationArgs args) {
  AwaitInputs();
  const int64_t token = blockIdx.x;
  const int begin = static_cast<int>(blockIdx.y) * kPart;
#pragma unroll
  for (int i = begin + static_cast<int>(threadIdx.x); i < begin + kPart; i += kThreads) {
    if (i < args.size) {
      const float gate = LoadAs<T>(args.gate_up, token, i);
      const float up = args.has_up ? LoadAs<T>(args.gate_up, token, int64_t{args.size} + i) : 1.0f;
      Store(args.y, token, i, Activate(args.activation, gate) * up);
    }
  }
}

}  // namespace

void CudaMlpActivation(const MlpActivationArgs& args, const CudaStep& step) {
  const dim3 blocks(static_cast<unsigned>(step.token_count), CeilDiv(args.size, kPart));
  WithType(args.gate_up.dtype, [&]<class T>() {
    Launch(MlpActivationKernel<T>, {blocks, kThreads}, step.stream, args);
  });
}

}  // namespace evenflow
