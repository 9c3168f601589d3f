#include "kernels/cuda/decode_launch.cuh"

namespace evenflow {

void DecodeF32(const AdvanceCall& call, const BesideAdvance& beside, const CudaStep& step) {
  DecodeWith<float, false>(call, beside, step);
}

}  // namespace evenflow
