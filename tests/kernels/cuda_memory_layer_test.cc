// A memory's layer on CUDA, from what is projected to what is projected back: with its operations
// in one kernel and the norm's factors in the product, it has the bits of the operations one by
// one, which are near the CPU's.
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/backend.h"

#include "tests/kernels/cpu_test_support.h"

namespace evenflow {
namespace {

constexpr int kSteps = 45;  // over several blocks of 16
constexpr int kOutputs = 72;
constexpr float kUnwritten = 12345;

struct LayerCase {
  const char* name = "";
  MemoryKind memory = MemoryKind::kRetention;
  MemoryShape shape;
  FeatureMap map = FeatureMap::kIdentity;
  HeadNorm norm = HeadNorm::kNone;
  DecayGate gate = DecayGate::kSoftplus;
  float rotary = 0;
  OutputNorm output = OutputNorm::kBeforeGate;
  Activation activation = Activation::kSilu;
  DType state = DType::kF32;
  bool has_keys = true;
};

const std::vector<LayerCase>& Cases() {
  using enum MemoryKind;
  static const std::vector<LayerCase> cases = {
      {.name = "retention", .shape = {2, 2, 2, 2, 256, 512}, .rotary = 10000},
      {.name = "retention_bf16_state",
       .shape = {2, 2, 2, 2, 256, 512},
       .rotary = 10000,
       .state = DType::kBF16},
      {.name = "grouped", .shape = {4, 2, 2, 4, 64, 84}, .norm = HeadNorm::kL2, .rotary = 500},
      {.name = "delta_rule",
       .memory = kDeltaRule,
       .shape = {2, 2, 2, 2, 128, 128},
       .map = FeatureMap::kElu1,
       .norm = HeadNorm::kSum,
       .activation = Activation::kNone},
      {.name = "gated_delta_rule",
       .memory = kGatedDeltaRule,
       .shape = {4, 2, 2, 4, 128, 256},
       .map = FeatureMap::kSilu,
       .norm = HeadNorm::kL2},
      {.name = "gated_linear_attention",
       .memory = kGatedLinearAttention,
       .shape = {2, 2, 2, 2, 64, 128},
       .gate = DecayGate::kLogSigmoid,
       .output = OutputNorm::kAfterGate},
      {.name = "keys_of_decays",
       .memory = kGatedLinearAttention,
       .shape = {2, 2, 2, 2, 128, 128},
       .gate = DecayGate::kLowerBounded,
       .has_keys = false},
      {.name = "kimi_delta_rule",
       .memory = kKimiDeltaRule,
       .shape = {2, 2, 2, 2, 128, 128},
       .norm = HeadNorm::kUnit,
       .gate = DecayGate::kBounded,
       .activation = Activation::kSigmoid},
      {.name = "kaczmarz",
       .memory = kKaczmarzDeltaRule,
       .shape = {2, 2, 2, 2, 128, 128},
       .map = FeatureMap::kRelu},
      {.name = "state_space_duality",
       .memory = kStateSpaceDuality,
       .shape = {4, 1, 1, 4, 128, 64},
       .gate = DecayGate::kTimeStep,
       .output = OutputNorm::kNone},
  };
  return cases;
}

// A layer with its weights, buffers and states on one device.
class Layer {
 public:
  Layer(const LayerCase& c, int rows, Backend& backend)
      : case_(c), row_count_(rows), activations_(backend.activation_dtype()), backend_(backend) {
    const MemoryShape& shape = c.shape;
    channels_ = DecayOf(c.memory) == Decay::kChannel ? shape.key_dim : 1;
    has_logs_ = DecayOf(c.memory) == Decay::kScalar || DecayOf(c.memory) == Decay::kChannel;
    inputs_.k_column = c.has_keys ? shape.query_heads * shape.key_dim : -1;
    inputs_.v_column = (shape.query_heads + shape.key_heads) * shape.key_dim;
    const int gate_column = inputs_.v_column + shape.value_heads * shape.value_dim;
    inputs_.decay_column = has_logs_ ? gate_column + shape.heads * shape.value_dim : -1;
    inputs_.beta_column = gate_column + shape.heads * (shape.value_dim + channels_);
    stride_ = (inputs_.beta_column + shape.heads + 7) / 8 * 8;
    inputs_.raw_key_dim = shape.key_dim;
    inputs_.raw_value_dim = shape.value_dim;
    inputs_.q_map.map = inputs_.k_map.map = c.map;
    inputs_.q_norm = inputs_.k_norm = c.norm;
    inputs_.rotary_base = c.rotary;
    inputs_.q_scale = 0.25f;
    const bool steps = c.gate == DecayGate::kTimeStep;
    inputs_.decay = {c.gate, Filled(shape.heads, 4, -1), Filled(shape.heads * channels_, 5, 1),
                     steps ? 0.01f : -5.0f, steps ? 2.0f : 0.0f};
    inputs_.decay_channels = channels_;
    inputs_.shape = shape;
    inputs_.q = Sentinel(shape.query_heads * shape.key_dim);
    inputs_.k = Sentinel(shape.key_heads * shape.key_dim);
    inputs_.v = Sentinel(shape.value_heads * shape.value_dim);
    inputs_.log_decay = has_logs_ ? Sentinel(shape.heads * channels_) : nullptr;
    inputs_.beta = HasBeta(c.memory) ? Sentinel(shape.heads) : nullptr;

    advance_.memory = c.memory;
    advance_.shape = shape;
    advance_.window.rollback = 8;
    advance_.state_dtype = c.state;
    advance_.slots.slot_bytes = LayoutOf(c.memory, shape, advance_.window, c.state).bytes;
    advance_.slots.base =
        static_cast<std::byte*>(backend.Allocate(Rows() * advance_.slots.slot_bytes));
    advance_.q = inputs_.q;
    advance_.k = inputs_.k;
    advance_.v = inputs_.v;
    advance_.log_decay = has_logs_ ? inputs_.log_decay : Filled(shape.heads, 6, -0.1f);
    advance_.beta = inputs_.beta;
    advance_.o = Sentinel(shape.heads * shape.value_dim);

    output_.o = advance_.o;
    output_.heads = shape.heads;
    output_.value_dim = shape.value_dim;
    output_.norm = c.output;
    output_.weight = Filled(shape.value_dim, 7, 1);
    output_.gate_activation = c.activation;
    output_.gate = {nullptr, activations_, stride_};
    const int64_t columns = int64_t{shape.heads} * shape.value_dim;
    output_.y = {Sentinel(shape.heads * shape.value_dim), activations_, columns};
    output_.feeds_product = true;
    back_.x = output_.y;
    back_.w = {RoundedWeights(kOutputs * columns), DType::kBF16, kOutputs, columns};
    back_.y = {Sentinel(kOutputs), DType::kF32, kOutputs};
    gate_column_ = gate_column;
    rows_ = Projections();
  }

  // The next token of each row; `apart`: with something else between the operations.
  void Step(bool apart) {
    std::vector<Row> rows;
    const std::vector<int32_t> tokens(Rows(), 1);
    for (int r = 0; r < row_count_; ++r) {
      rows.push_back({r, r, 1, position_});
    }
    StepInput input;
    input.rows = rows.data();
    input.row_count = input.token_count = row_count_;
    input.tokens = tokens.data();
    backend_.BeginStep(input);
    const size_t bytes = static_cast<size_t>(stride_) * ByteSize(activations_);
    std::byte* const projected = rows_ + static_cast<size_t>(position_) * Rows() * bytes;
    inputs_.projected = {projected, activations_, stride_};
    output_.gate.data = projected + static_cast<size_t>(gate_column_) * ByteSize(activations_);
    backend_.MemoryInputs(inputs_);
    Between(apart);
    backend_.Advance(advance_);
    Between(apart);
    backend_.MemoryOutput(output_);
    backend_.MatMul(back_);
    backend_.Collect(backend_.Launch());
    EXPECT_EQ(backend_.error(), "");
    ++position_;
  }

  std::vector<float> Output() const { return Get(back_.y.data, Rows() * kOutputs); }

  std::vector<float> States() const {
    return Get(advance_.slots.base, Rows() * advance_.slots.slot_bytes / sizeof(float));
  }

  // Whether MemoryInputs and MemoryOutput were done by Advance: nothing was written between them.
  bool HasInputs() const { return Get(inputs_.q, 1)[0] == kUnwritten; }

  bool HasOutput() const { return Get(advance_.o, 1)[0] == kUnwritten; }

 private:
  size_t Rows() const { return static_cast<size_t>(row_count_); }

  std::vector<float> Get(const void* from, size_t count) const {
    std::vector<float> values(count);
    backend_.Download(values.data(), from, count * sizeof(float));
    return values;
  }

  void* Put(const void* data, size_t bytes) {
    void* const to = backend_.Allocate(bytes);
    backend_.Upload(to, data, bytes);
    return to;
  }

  // Random numbers between `most` / 2 and `most`.
  float* Filled(int count, uint32_t seed, float most) {
    std::vector<float> values = test::RandomFloats(static_cast<size_t>(count), seed);
    for (float& value : values) {
      value = most * (0.5f + 0.5f / (1 + std::fabs(value)));
    }
    return static_cast<float*>(Put(values.data(), values.size() * sizeof(float)));
  }

  float* Sentinel(int count) {
    const std::vector<float> values(static_cast<size_t>(kStepPadding * count), kUnwritten);
    return static_cast<float*>(Put(values.data(), values.size() * sizeof(float)));
  }

  std::byte* Projections() {
    const auto count = static_cast<size_t>((kSteps * row_count_ + kStepPadding) * stride_);
    const std::vector<float> values = test::RandomFloats(count, 8, 0.5f);
    return static_cast<std::byte*>(activations_ == DType::kF32
                                       ? Put(values.data(), count * sizeof(float))
                                       : PutRounded(values));
  }

  void* RoundedWeights(int64_t count) {
    return PutRounded(test::RandomFloats(static_cast<size_t>(count), 9, 0.05f));
  }

  void* PutRounded(const std::vector<float>& values) {
    std::vector<uint16_t> rounded;
    for (const float value : values) {
      rounded.push_back(test::ToBf16(value));
    }
    return Put(rounded.data(), rounded.size() * sizeof(uint16_t));
  }

  // An operation that has nothing to do with the layer.
  void Between(bool apart) {
    if (apart) {
      NormArgs norm;
      norm.x = norm.y = {other_, DType::kF32, 32};
      norm.dim = 32;
      backend_.Norm(norm);
    }
  }

  const LayerCase& case_;
  const int row_count_;
  const DType activations_;
  Backend& backend_;
  int channels_ = 1;
  bool has_logs_ = false;
  int64_t stride_ = 0;
  int gate_column_ = 0;
  int64_t position_ = 0;
  MemoryInputsArgs inputs_;
  AdvanceArgs advance_;
  MemoryOutputArgs output_;
  MatMulArgs back_;
  std::byte* rows_ = nullptr;
  float* const other_ = Sentinel(32);
};

// The error of y is that of what is rounded on the way.
void ExpectBitsOfOneByOne(const LayerCase& c, DType activations, int rows, bool batch_invariant) {
  std::string error;
  const auto cuda = CreateCudaBackend(
      {.threads = 0, .activations = activations, .batch_invariant = batch_invariant}, &error);
  ASSERT_NE(cuda, nullptr) << error;
  const auto cpu = CreateCpuBackend({.threads = 2});
  Layer together(c, rows, *cuda), apart(c, rows, *cuda), reference(c, rows, *cpu);
  double difference = 0, norm = 0;
  for (int step = 0; step < kSteps; ++step) {
    together.Step(false);
    apart.Step(true);
    reference.Step(false);
    const std::vector<float> y = together.Output();
    ASSERT_EQ(y, apart.Output()) << "step " << step;
    const std::vector<float> expected = reference.Output();
    for (size_t i = 0; i < y.size(); ++i) {
      difference += std::pow(static_cast<double>(y[i]) - static_cast<double>(expected[i]), 2);
      norm += std::pow(static_cast<double>(expected[i]), 2);
    }
  }
  const bool narrow = activations == DType::kBF16;
  EXPECT_TRUE(together.HasInputs());
  EXPECT_EQ(together.HasOutput(),
            c.output == OutputNorm::kNone || (narrow && c.shape.value_dim % 64 == 0));
  EXPECT_FALSE(apart.HasInputs() || apart.HasOutput());
  EXPECT_EQ(together.States(), apart.States());
  const double tolerance =  // sums of hundreds of terms in other orders, over 45 tokens
      narrow                    ? 0.02
      : c.state == DType::kBF16 ? std::pow(2.0, -8)
                                : 256 * test::kEps;
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(norm));
}

// A case, of so many rows, where their bits may depend on the others' or not.
using LayerParam = std::tuple<LayerCase, int, bool>;

class CudaMemoryLayerTest : public testing::TestWithParam<LayerParam> {};

TEST_P(CudaMemoryLayerTest, TogetherHasTheBitsOfOneByOne) {
  const auto& [c, rows, batch_invariant] = GetParam();
  ExpectBitsOfOneByOne(c, DType::kBF16, rows, batch_invariant);
  if (rows == 2) {
    ExpectBitsOfOneByOne(c, DType::kF32, rows, batch_invariant);
  }
}

std::string NameOf(const testing::TestParamInfo<LayerParam>& info) {
  const auto& [c, rows, batch_invariant] = info.param;
  return std::string(c.name) + "_" + std::to_string(rows) + "_rows" +
         (batch_invariant ? "_batch_invariant" : "");
}

INSTANTIATE_TEST_SUITE_P(All, CudaMemoryLayerTest,
                         testing::Combine(testing::ValuesIn(Cases()), testing::Values(2, 11, 24),
                                          testing::Bool()),
                         NameOf);

}  // namespace
}  // namespace evenflow
