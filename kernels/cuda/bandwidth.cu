#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/bandwidth.h"

namespace evenflow {
namespace {

constexpr int kThreads = 512;
constexpr int kUnroll = 8;
constexpr size_t kBytes = size_t{2} << 30;
constexpr int kPasses = 8;

// Sums the words of [pieces, 16 bytes]; writes nothing unless the sum is what it never is, as the
// buffer holds zeros.
__global__ void __launch_bounds__(kThreads)
    ReadKernel(const uint4* data, int64_t pieces, uint32_t* sink) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  uint32_t sum = 0;
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; i + (kUnroll - 1) * stride < pieces; i += kUnroll * stride) {
    uint4 loaded[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      loaded[u] = __ldcs(data + i + u * stride);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      sum += loaded[u].x ^ loaded[u].y ^ loaded[u].z ^ loaded[u].w;
    }
  }
  if (sum != 0) {
    *sink = sum;
  }
}

}  // namespace

double CudaReadBandwidth(cudaStream_t stream) {
  void* buffer = nullptr;
  if (cudaMalloc(&buffer, kBytes) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  cudaMemsetAsync(buffer, 0, kBytes, stream);
  int processors = 0;
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0);
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  float best = 0;  // milliseconds
  for (int pass = 0; pass < kPasses; ++pass) {
    cudaEventRecord(begin, stream);
    ReadKernel<<<static_cast<unsigned>(4 * processors), kThreads, 0, stream>>>(
        static_cast<const uint4*>(buffer), static_cast<int64_t>(kBytes / sizeof(uint4)),
        static_cast<uint32_t*>(buffer));
    cudaEventRecord(end, stream);
    float ms = 0;
    if (cudaEventSynchronize(end) == cudaSuccess &&
        cudaEventElapsedTime(&ms, begin, end) == cudaSuccess) {
      best = best == 0 ? ms : std::min(best, ms);
    }
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaFree(buffer);
  return best > 0 ? static_cast<double>(kBytes) / (best * 1e-3) : 0;
}

cudaError_t ProbeKernels() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, ReadKernel);
}

}  // namespace evenflow
