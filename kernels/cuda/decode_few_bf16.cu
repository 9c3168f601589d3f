#include "kernels/cuda/decode_launch.cuh"

namespace evenflow {

void DecodeFewBF16(const AdvanceCall& call, const CudaStep& step) {
  DecodeWith<__nv_bfloat16, true>(call, {}, step);
}

}  // namespace evenflow
