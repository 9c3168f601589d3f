#include "kernels/cuda/cublas_lt.h"

#include <dlfcn.h>

namespace evenflow {
namespace {

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
constexpr char kName[] = "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR);

// As the system finds it, or where it was when this was built.
struct Library {
  void* handle = dlopen(kName, RTLD_NOW | RTLD_LOCAL);
  std::string error;

  Library() {
    if (handle == nullptr) {
      error = dlerror();
      handle = dlopen((std::string(CUDA_LIBRARY_DIR "/") + kName).c_str(), RTLD_NOW | RTLD_LOCAL);
    }
  }
};

const Library& TheLibrary() {
  static const Library library;
  return library;
}

// The library's function of that name and type. REQUIRES: LoadCublasLt.
template <class Function>
Function* Find(const char* name) {
  return reinterpret_cast<Function*>(dlsym(TheLibrary().handle, name));
}

}  // namespace

bool LoadCublasLt(std::string* error) {
  if (TheLibrary().handle == nullptr) {
    *error = "cuBLASLt is not there: " + TheLibrary().error;
    return false;
  }
  return true;
}

}  // namespace evenflow

// What cublasLt.h declares and we call, or its inline functions do.
#define FORWARD(name, parameters, arguments)                            \
  cublasStatus_t CUBLASWINAPI name parameters {                         \
    static const auto function = evenflow::Find<decltype(name)>(#name); \
    return function arguments;                                          \
  }

extern "C" {

FORWARD(cublasLtCreate, (cublasLtHandle_t * handle), (handle))
FORWARD(cublasLtDestroy, (cublasLtHandle_t handle), (handle))
FORWARD(cublasLtMatmul,
        (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
         cublasLtMatrixLayout_t of_a, const void* b, cublasLtMatrixLayout_t of_b, const void* beta,
         const void* c, cublasLtMatrixLayout_t of_c, void* d, cublasLtMatrixLayout_t of_d,
         const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t bytes, cudaStream_t stream),
        (handle, operation, alpha, a, of_a, b, of_b, beta, c, of_c, d, of_d, algorithm, workspace,
         bytes, stream))
FORWARD(cublasLtMatmulAlgoGetHeuristic,
        (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t of_a,
         cublasLtMatrixLayout_t of_b, cublasLtMatrixLayout_t of_c, cublasLtMatrixLayout_t of_d,
         cublasLtMatmulPreference_t preference, int wanted,
         cublasLtMatmulHeuristicResult_t results[], int* found),
        (handle, operation, of_a, of_b, of_c, of_d, preference, wanted, results, found))
FORWARD(cublasLtMatmulDescInit_internal,
        (cublasLtMatmulDesc_t operation, size_t size, cublasComputeType_t compute,
         cudaDataType_t scale),
        (operation, size, compute, scale))
FORWARD(cublasLtMatmulDescSetAttribute,
        (cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
         const void* value, size_t size),
        (operation, attribute, value, size))
FORWARD(cublasLtMatrixLayoutInit_internal,
        (cublasLtMatrixLayout_t layout, size_t size, cudaDataType type, uint64_t rows,
         uint64_t columns, int64_t stride),
        (layout, size, type, rows, columns, stride))
FORWARD(cublasLtMatmulPreferenceInit_internal, (cublasLtMatmulPreference_t preference, size_t size),
        (preference, size))
FORWARD(cublasLtMatmulPreferenceSetAttribute,
        (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const void* value, size_t size),
        (preference, attribute, value, size))

}  // extern "C"
