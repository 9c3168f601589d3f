// Times the products of a layer of RetNet-1.3B one after the other on a CUDA device, with the norms
// and the activation between them, next to how long reading their weights takes.
// bench_cuda_products [--json] [--batch-invariant] [--rows N]
#include <cstring>
#include <string>

#include "kernels/cuda/matmul.h"

#include "tests/bench/cuda_timing.cuh"

namespace evenflow {
namespace {

constexpr int kDim = 2048, kProjected = 12288, kInner = 4096, kHidden = 2816, kHeads = 8;
constexpr int kLayers = 4;  // whose weights do not fit into a cache
constexpr int kMostRows = 256;
constexpr int kReplays = 40;

struct Options {
  bool json = false;
  bool batch_invariant = false;
  int rows = 0;  // 0: several
};

size_t Bf16Bytes(int64_t rows, int64_t columns) {
  return static_cast<size_t>(rows * columns) * 2;
}

// A product's weights in all layers.
struct Weights {
  Weights(int64_t outputs, int64_t inputs)
      : rows(outputs), cols(inputs), memory(kLayers * Bf16Bytes(outputs, inputs)) {
    memory.Fill(-0.05f, 0.05f);
  }

  Weight Of(int layer) const {
    return {memory.As<std::byte>() + static_cast<size_t>(layer) * Bf16Bytes(rows, cols),
            DType::kBF16, rows, cols};
  }

  int64_t rows, cols;
  Memory memory;
};

Matrix MatrixOf(const Memory& memory, DType dtype, int64_t columns) {
  return {memory.As<void>(), dtype, columns};
}

class Layers {
 public:
  explicit Layers(bool batch_invariant) {
    std::string error;
    matmul_ = CudaMatMul::Create(batch_invariant, &error);
    if (matmul_ == nullptr) {
      std::fprintf(stderr, "%s\n", error.c_str());
      std::exit(1);
    }
    inner_.Fill(-1, 1);
    inner_squares_.Fill(0, 1);
    norm_weight_.Fill(0.5f, 1.5f);
  }

  // As the backend enqueues them: what a product does beside it has no launch of its own.
  void Enqueue(int rows, cudaStream_t stream) {
    CudaStep step;
    step.stream = stream;
    step.row_count = step.token_count = rows;
    const Matrix residual = MatrixOf(residual_, DType::kF32, kDim);
    const Matrix normed = MatrixOf(normed_, DType::kBF16, kDim);
    const Matrix gate_up = MatrixOf(gate_up_, DType::kBF16, 2 * kHidden);
    const Matrix hidden = MatrixOf(hidden_, DType::kBF16, kHidden);
    NormArgs norm = {.x = residual, .y = normed, .dim = kDim};
    norm.weight = norm_weight_.As<float>();
    norm.feeds_product = true;
    MlpActivationArgs mlp = {.gate_up = gate_up, .y = hidden, .size = kHidden};
    mlp.feeds_product = true;
    MemoryOutputArgs output;
    output.heads = kHeads;
    output.value_dim = kInner / kHeads;
    output.y = MatrixOf(inner_, DType::kBF16, kInner);
    output.feeds_product = true;
    LeftFactors inner;  // by the memory's output
    if (matmul_->TakesFactors(output, step)) {
      inner = matmul_->Leave(output, rows);
      inner.squares = inner_squares_.As<float>();
    }
    CudaNorm(norm, step);
    LeftFactors left;  // by the norm before
    for (int layer = 0; layer < kLayers; ++layer) {
      MatMulArgs args = {.x = normed,
                         .w = projection_.Of(layer),
                         .y = MatrixOf(projected_, DType::kBF16, kProjected)};
      matmul_->Run(args, {.lacks = left}, step);

      args = {.x = MatrixOf(inner_, DType::kBF16, kInner), .w = back_.Of(layer), .y = residual};
      args.add = true;
      left = Follow(args, inner, norm, step);

      args = {.x = normed, .w = mlp_.Of(layer), .y = gate_up};
      const bool activates = matmul_->RunsBeside(args, step);
      matmul_->Run(args, {.lacks = left, .mlp = activates ? &mlp : nullptr}, step);
      if (!activates) {
        CudaMlpActivation(mlp, step);
      }

      args = {.x = hidden, .w = down_.Of(layer), .y = residual};
      args.add = true;
      left = Follow(args, {}, norm, step);
    }
  }

 private:
  // The product and then the norm; what that leaves, if it was beside it.
  LeftFactors Follow(const MatMulArgs& args, const LeftFactors& lacks, const NormArgs& norm,
                     const CudaStep& step) {
    Beside beside = {.lacks = lacks};
    if (matmul_->RunsBeside(args, step)) {
      beside.norm = &norm;
      beside.leaves = matmul_->Leave(norm, step.token_count);
    }
    matmul_->Run(args, beside, step);
    if (beside.norm == nullptr) {
      CudaNorm(norm, step);
    }
    return beside.leaves;
  }

  std::unique_ptr<CudaMatMul> matmul_;
  const Weights projection_{kProjected, kDim}, back_{kDim, kInner}, mlp_{2 * kHidden, kDim},
      down_{kDim, kHidden};
  const Memory residual_{sizeof(float) * kMostRows * kDim}, normed_{Bf16Bytes(kMostRows, kDim)},
      projected_{Bf16Bytes(kMostRows, kProjected)}, inner_{Bf16Bytes(kMostRows, kInner)},
      gate_up_{Bf16Bytes(kMostRows, 2 * kHidden)}, hidden_{Bf16Bytes(kMostRows, kHidden)},
      inner_squares_{sizeof(float) * kMostRows * kInner / kLeftColumns},
      norm_weight_{sizeof(float) * kDim};
};

void Run(const Options& options) {
  cudaDeviceProp device;
  Check(cudaGetDeviceProperties(&device, 0));
  double floor = 0;
  for (const auto& [outputs, inputs] :
       {std::pair(kProjected, kDim), {kDim, kInner}, {2 * kHidden, kDim}, {kDim, kHidden}}) {
    floor += ReadSeconds(Bf16Bytes(outputs, inputs));
  }
  std::printf(options.json ? "{\"device\": \"%s\", \"floor_us\": %.1f}\n"
                           : "%s, reading a layer's weights: %.1f us\n",
              device.name, floor * 1e6);
  Layers layers(options.batch_invariant);
  for (const int rows : {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256}) {
    if (options.rows != 0 && options.rows != rows) {
      continue;
    }
    layers.Enqueue(rows, nullptr);  // what is allocated at its first use
    Check(cudaDeviceSynchronize());
    const double seconds =
        Median(TimeGraph([&](cudaStream_t s) { layers.Enqueue(rows, s); }, [](int) {}, kReplays)) /
        kLayers;
    std::printf(options.json ? "{\"rows\": %d, \"us\": %.1f, \"of_floor\": %.3f}\n"
                             : "%3d rows %7.1f us a layer, %.2f times\n",
                rows, seconds * 1e6, seconds / floor);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace evenflow

int main(int argc, char** argv) {
  evenflow::Options options;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0) {
      options.json = true;
    } else if (std::strcmp(argv[i], "--batch-invariant") == 0) {
      options.batch_invariant = true;
    } else if (std::strcmp(argv[i], "--rows") == 0 && i + 1 < argc) {
      options.rows = std::atoi(argv[++i]);
    } else {
      std::fprintf(stderr, "usage: bench_cuda_products [--json] [--batch-invariant] [--rows N]\n");
      return 2;
    }
  }
  evenflow::Run(options);
  return 0;
}
