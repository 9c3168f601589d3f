// Stands in for the CUDA backend in a build without it.
#include "kernels/backend.h"

namespace evenflow {

std::unique_ptr<Backend> CreateCudaBackend(const BackendOptions& /*options*/, std::string* error) {
  *error = "this binary was built without CUDA; build preset 'cuda', or use --device cpu";
  return nullptr;
}

}  // namespace evenflow
