// What CopyBarrier::CopyTile copies boxes of: CUDA Driver API, section "Tensor Map Object
// Management". Any thread.
#ifndef EVENFLOW_KERNELS_CUDA_TENSOR_MAP_H_
#define EVENFLOW_KERNELS_CUDA_TENSOR_MAP_H_

#include <cstdint>

#include <cuda.h>
#include <cuda_runtime.h>

namespace evenflow {

// The driver's cuTensorMapEncodeTiled, as nothing links it; nullptr if it has none.
inline auto FindTensorMapEncode() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                              12000, cudaEnableDefault, &result);
  return status == cudaSuccess && result == cudaDriverEntryPointSuccess
             ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found)
             : nullptr;
}

// Of bf16, the innermost dimension first; strides are those of the others; all in values. A box
// lies in shared memory as it is, rows of 128 bytes swizzled, with zeros for what is beyond the
// sizes. REQUIRES FindTensorMapEncode, data and strides on 16 bytes.
inline CUtensorMap TensorMapOf(const void* data, const int64_t (&sizes)[4],
                               const int64_t (&strides)[3], const int64_t (&box)[4]) {
  static const auto encode = FindTensorMapEncode();
  cuuint64_t counts[4], bytes[3];
  cuuint32_t copied[4];
  const cuuint32_t ones[4] = {1, 1, 1, 1};
  for (int i = 0; i < 4; ++i) {
    counts[i] = static_cast<cuuint64_t>(sizes[i]);
    copied[i] = static_cast<cuuint32_t>(box[i]);
  }
  for (int i = 0; i < 3; ++i) {
    bytes[i] = static_cast<cuuint64_t>(strides[i]) * 2;
  }
  CUtensorMap map = {};
  encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(data), counts, bytes, copied,
         ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
         CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return map;
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_TENSOR_MAP_H_
