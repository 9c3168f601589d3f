// What the device's memory delivers, and whether this binary's kernels run there. Engine thread.
#ifndef EVENFLOW_KERNELS_CUDA_BANDWIDTH_H_
#define EVENFLOW_KERNELS_CUDA_BANDWIDTH_H_

#include <cuda_runtime.h>

namespace evenflow {

// Bytes per second that a kernel which only reads gets from a buffer far larger than the caches;
// the best of several passes. 0 when there is no memory for the buffer.
double CudaReadBandwidth(cudaStream_t stream);

// An error if the device cannot run kernels of this binary.
cudaError_t ProbeKernels();

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_BANDWIDTH_H_
