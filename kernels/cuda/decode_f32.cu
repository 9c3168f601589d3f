#include "kernels/cuda/decode_launch.cuh"

namespace evenflow {

void DecodeF32(const AdvanceCall& call, const CudaStep& step) {
  DecodeWith<float>(call, step);
}

}  // namespace evenflow
