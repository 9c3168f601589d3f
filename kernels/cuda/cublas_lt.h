// cuBLASLt, loaded when it is asked for. Were it linked, its 94 KB of thread-local data would be
// part of every thread's stack, more than the HTTP library's threads have (100 KB), and a binary
// with CUDA would not start on a machine without it.
#ifndef EVENFLOW_KERNELS_CUDA_CUBLAS_LT_H_
#define EVENFLOW_KERNELS_CUDA_CUBLAS_LT_H_

#include <string>

#include <cublasLt.h>

namespace evenflow {

// Once true, functions of cublasLt.h may be called: those that cublas_lt.cc lists. Else *error says
// why. Any thread.
bool LoadCublasLt(std::string* error);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_CUBLAS_LT_H_
