// Marks functions that the host and the CUDA kernels share, so that no formula is written twice.
#ifndef EVENFLOW_KERNELS_MATH_HOST_DEVICE_H_
#define EVENFLOW_KERNELS_MATH_HOST_DEVICE_H_

#ifdef __CUDACC__
#define EVENFLOW_HOST_DEVICE __host__ __device__
#else
#define EVENFLOW_HOST_DEVICE
#endif

#endif  // EVENFLOW_KERNELS_MATH_HOST_DEVICE_H_
