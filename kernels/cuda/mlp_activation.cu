#include "kernels/cuda/four.cuh"
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

// The same with 4 channels a thread: see InFours.
template <class T>
__global__ void __launch_bounds__(kThreads)
    MlpActivationFoursKernel(MlpActivationArgs args, int64_t count) {
  AwaitInputs();
  const int fours = args.size / 4;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= count) {
    return;
  }
  const int64_t token = index / fours;
  const int64_t channel = index % fours * 4;
  const T* const row = static_cast<const T*>(args.gate_up.data) + token * args.gate_up.stride;
  Four y = LoadFour(row + channel);
  const Four up = args.has_up ? LoadFour(row + args.size + channel) : Four{{1, 1, 1, 1}};
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    y.x[e] = Activate(args.activation, y.x[e]) * up.x[e];
  }
  StoreFour(args.y, token * args.y.stride + channel, y);
}

}  // namespace

void CudaMlpActivation(const MlpActivationArgs& args, const CudaStep& step) {
  if (args.size % 4 == 0 && InFours(args.gate_up) && InFours(args.y)) {
    const int64_t count = int64_t{step.token_count} * (args.size / 4);
    WithType(args.gate_up.dtype, [&]<class T>() {
      Launch(MlpActivationFoursKernel<T>, {dim3(CeilDiv(count, kThreads)), kThreads}, step.stream,
             args, count);
    });
    return;
  }
  const dim3 blocks(static_cast<unsigned>(step.token_count), CeilDiv(args.size, kPart));
  WithType(args.gate_up.dtype, [&]<class T>() {
    Launch(MlpActivationKernel<T>, {blocks, kThreads}, step.stream, args);
  });
}

}  // namespace evenflow
