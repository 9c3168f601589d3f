#include <cuda_runtime.h>

#include "tests/support/lose_device.h"

namespace evenflow {
namespace {

__global__ void Fail() {
  __trap();
}

}  // namespace

void LoseCudaDevice() {
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  Fail<<<1, 1, 0, stream>>>();
  cudaStreamSynchronize(stream);
}

}  // namespace evenflow
