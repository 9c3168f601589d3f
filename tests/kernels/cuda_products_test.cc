// Products of few rows in bf16 on CUDA and what is done beside them: near the CPU's, and to the bit
// the same for any number of rows beside a row that the same kernel serves.
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/backend.h"

#include "tests/kernels/cpu_test_support.h"

namespace evenflow {
namespace {

// No multiples of what a block takes; the last product has several groups a block.
constexpr int kDim = 1096, kHeads = 3, kHeadDim = 192, kHidden = 200, kWide = 4400;
constexpr int kInner = kHeads * kHeadDim;
constexpr int kMostRows = 160;

// The end of a layer and the beginning of the next one, from what a memory reads on, on one device.
// Rows have the same inputs in every run.
class Layer {
 public:
  explicit Layer(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {
    back_ = Random(kDim, kInner, 1);
    gate_up_ = Random(2 * kHidden, kDim, 2);
    down_ = Random(kDim, kHidden, 3);
    wide_ = Random(kWide, kDim, 4);
    weight_ = Put(test::RandomFloats(kDim, 5));
    bias_ = Put(test::RandomFloats(kWide, 6));
    head_weight_ = Put(test::RandomFloats(kHeadDim, 9));
    read_ = Put(test::RandomFloats(kMostRows * kInner, 7));
    input_ = Make(kInner, true);
    stream_ = Make(kDim, false);
    normed_ = Make(kDim, true);
    projected_ = Make(2 * kHidden, true);
    hidden_ = Make(kHidden, true);
    output_ = Make(kWide, false);
  }

  // What a step of so many tokens leaves of each: the residual stream, then the output.
  std::vector<std::vector<float>> Run(int tokens) {
    const std::vector<float> stream = test::RandomFloats(kMostRows * kDim, 8);
    backend_->Upload(stream_.data, stream.data(), stream.size() * 4);

    const Row row = {.slot = 0, .first_token = 0, .tokens = tokens, .position = 0};
    const std::vector<int32_t> ids(static_cast<size_t>(tokens));
    StepInput step;
    step.rows = &row;
    step.row_count = 1;
    step.tokens = ids.data();
    step.token_count = tokens;
    backend_->BeginStep(step);
    MemoryOutputArgs heads;
    heads.o = read_;
    heads.heads = kHeads;
    heads.value_dim = kHeadDim;
    heads.weight = head_weight_;
    heads.y = input_;
    heads.feeds_product = true;
    backend_->MemoryOutput(heads);
    backend_->MatMul({.x = input_, .w = back_, .y = stream_, .add = true});
    NormArgs norm = {.x = stream_, .y = normed_, .dim = kDim, .weight = weight_};
    norm.feeds_product = true;
    backend_->Norm(norm);
    backend_->MatMul({.x = normed_, .w = gate_up_, .y = projected_});
    MlpActivationArgs activation = {.gate_up = projected_, .y = hidden_, .size = kHidden};
    activation.feeds_product = true;
    backend_->MlpActivation(activation);
    backend_->MatMul({.x = hidden_, .w = down_, .y = stream_, .add = true});
    backend_->Norm(norm);
    backend_->MatMul({.x = normed_, .w = wide_, .bias = bias_, .y = output_});
    backend_->Collect(backend_->Launch());
    EXPECT_EQ(backend_->error(), "");
    return {Get(stream_, tokens, kDim), Get(output_, tokens, kWide)};
  }

 private:
  Weight Random(int64_t rows, int64_t cols, uint32_t seed) {
    std::vector<uint16_t> values;
    for (const float value : test::RandomFloats(static_cast<size_t>(rows * cols), seed, 0.05f)) {
      values.push_back(test::ToBf16(value));
    }
    void* const data = backend_->Allocate(values.size() * 2);
    backend_->Upload(data, values.data(), values.size() * 2);
    return {data, DType::kBF16, rows, cols};
  }

  const float* Put(const std::vector<float>& values) {
    void* const data = backend_->Allocate(values.size() * 4);
    backend_->Upload(data, values.data(), values.size() * 4);
    return static_cast<const float*>(data);
  }

  // An activation; `narrow` on a device whose activations are.
  Matrix Make(int64_t columns, bool narrow) {
    const DType dtype = narrow ? backend_->activation_dtype() : DType::kF32;
    return {backend_->Allocate(static_cast<size_t>(kMostRows * columns) * 4), dtype, columns};
  }

  std::vector<float> Get(const Matrix& matrix, int rows, int64_t columns) {
    std::vector<float> values(static_cast<size_t>(rows * columns));
    backend_->Download(values.data(), matrix.data, values.size() * 4);
    return values;
  }

  std::unique_ptr<Backend> backend_;
  Weight back_, gate_up_, down_, wide_;
  const float *weight_, *bias_, *head_weight_, *read_;
  Matrix input_, stream_, normed_, projected_, hidden_, output_;
};

std::unique_ptr<Backend> Cuda(bool batch_invariant) {
  std::string error;
  std::unique_ptr<Backend> backend =
      CreateCudaBackend({.batch_invariant = batch_invariant}, &error);
  EXPECT_NE(backend, nullptr) << error;
  return backend;
}

constexpr const char* kNames[] = {"residual stream", "output"};

// ||a - b|| / ||b||, b being longer perhaps.
double Difference(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

TEST(CudaProducts, AreNearTheCpus) {
  const std::vector<std::vector<float>> expected = Layer(CreateCpuBackend({.threads = 2})).Run(100);
  std::unique_ptr<Backend> backend = Cuda(false);
  ASSERT_NE(backend, nullptr);
  Layer layer(std::move(backend));
  for (const int tokens : {1, 7, 8, 9, 16, 17, 24, 31, 33, 41, 48, 55, 64, 65, 100}) {
    const std::vector<std::vector<float>> actual = layer.Run(tokens);
    for (size_t i = 0; i < actual.size(); ++i) {
      // Activations are rounded to 2^-9 on the way.
      EXPECT_LE(Difference(actual[i], expected[i]), 0.005) << tokens << " tokens, " << kNames[i];
    }
  }
}

void ExpectSameBits(Layer& layer, const std::vector<int>& counts,
                    const std::vector<std::vector<float>>& expected) {
  for (const int tokens : counts) {
    const std::vector<std::vector<float>> actual = layer.Run(tokens);
    for (size_t i = 0; i < actual.size(); ++i) {
      EXPECT_EQ(std::memcmp(actual[i].data(), expected[i].data(), actual[i].size() * 4), 0)
          << tokens << " tokens, " << kNames[i];
    }
  }
}

TEST(CudaProducts, ARowsBitsDoNotDependOnTheOthersUpTo16) {
  std::unique_ptr<Backend> backend = Cuda(false);
  ASSERT_NE(backend, nullptr);
  Layer layer(std::move(backend));
  ExpectSameBits(layer, {1, 2, 8, 9, 15}, layer.Run(16));
}

TEST(CudaProducts, ARowsBitsDoNotDependOnTheOthersFrom17To64) {
  std::unique_ptr<Backend> backend = Cuda(false);
  ASSERT_NE(backend, nullptr);
  if (backend->Describe().find("compute capability 9.") == std::string::npos) {
    GTEST_SKIP() << "more than 16 rows are cuBLASLt's there";
  }
  Layer layer(std::move(backend));
  ExpectSameBits(layer, {17, 24, 25, 32, 33, 40, 48, 49, 63}, layer.Run(64));
}

TEST(CudaProducts, ARowsBitsDoNotDependOnTheOthersWhereTheyMayNot) {
  std::unique_ptr<Backend> backend = Cuda(true);
  ASSERT_NE(backend, nullptr);
  Layer layer(std::move(backend));
  ExpectSameBits(layer, {1, 8, 16, 17, 33, 64, 65, 80, 129}, layer.Run(160));
}

}  // namespace
}  // namespace evenflow
