#include "kernels/cuda/decode_launch.cuh"

namespace evenflow {

void DecodeFewF32(const AdvanceCall& call, const CudaStep& step) {
  DecodeWith<float, true>(call, {}, step);
}

}  // namespace evenflow
