#include "kernels/cuda/decode_launch.cuh"

namespace evenflow {

void DecodeBF16(const AdvanceCall& call, const BesideAdvance& beside, const CudaStep& step) {
  DecodeWith<__nv_bfloat16, false>(call, beside, step);
}

}  // namespace evenflow
