#include "kernels/cuda/decode_launch.cuh"

namespace evenflow {

void DecodeF32(const AdvanceCall& call, const CudaStep& step) {
  DecodeWith<float, false>(call, step);
}

}  // namespace evenflow
