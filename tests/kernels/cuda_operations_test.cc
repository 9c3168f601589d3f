// Every operation on the CUDA device against the same call on the CPU, whose operations have tests
// against their formulas. Activations are fp32; tests/engine/model/golden_test.cc covers bf16.
#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/backend.h"

#include "tests/kernels/cpu_test_support.h"

namespace evenflow {
namespace {

using test::RandomFloats;

// Both devices; what a test allocates on them is freed with it.
class CudaOperationsTest : public testing::Test {
 protected:
  // A matrix on both devices.
  struct Twin {
    std::vector<float> host;
    Matrix on[2];
  };

  CudaOperationsTest() {
    std::string error;
    backends_[0] = CreateCpuBackend({.threads = 2});
    backends_[1] = CreateCudaBackend({.threads = 0, .activations = DType::kF32}, &error);
    EXPECT_NE(backends_[1], nullptr) << error;
  }

  void SetUp() override { ASSERT_NE(backends_[1], nullptr); }

  void* Put(int device, const void* data, size_t bytes) {
    void* const memory = backends_[device]->Allocate(bytes);
    backends_[device]->Upload(memory, data, bytes);
    return memory;
  }

  // One per device, of the same contents.
  const float* const* Floats(const std::vector<float>& values) {
    auto& pair = pairs_.emplace_back();
    for (int device = 0; device < 2; ++device) {
      pair[device] = static_cast<float*>(Put(device, values.data(), values.size() * sizeof(float)));
    }
    return pair;
  }

  Twin Make(int64_t rows, int64_t columns, uint32_t seed, float scale = 1) {
    const int64_t padded = (rows + kStepPadding - 1) / kStepPadding * kStepPadding;
    const int64_t stride = (columns + 15) / 16 * 16;
    Twin twin;
    twin.host = RandomFloats(static_cast<size_t>(padded * stride), seed, scale);
    const float* const* data = Floats(twin.host);
    for (int device = 0; device < 2; ++device) {
      twin.on[device] = {const_cast<float*>(data[device]), DType::kF32, stride};
    }
    return twin;
  }

  std::vector<float> Get(int device, const void* from, size_t count) {
    std::vector<float> values(count);
    backends_[device]->Download(values.data(), from, count * sizeof(float));
    return values;
  }

  // A step of the given rows on both devices; run(device, backend) calls its operations.
  template <class Run>
  void Step(const std::vector<Row>& rows, const Run& run,
            const std::vector<SamplingRow>& sampling = {}) {
    StepInput input;
    input.rows = rows.data();
    input.row_count = static_cast<int>(rows.size());
    std::vector<int32_t> tokens, logit_tokens;
    for (const Row& row : rows) {
      for (int i = 0; i < row.tokens; ++i) {
        tokens.push_back(static_cast<int32_t>(tokens.size() % 7));
      }
      logit_tokens.push_back(static_cast<int32_t>(tokens.size()) - 1);
    }
    std::vector<SamplingRow> rows_of_logits = sampling;
    rows_of_logits.resize(rows.size());
    input.tokens = tokens.data();
    input.token_count = static_cast<int>(tokens.size());
    input.logit_tokens = logit_tokens.data();
    input.logit_count = input.row_count;
    input.sampling = rows_of_logits.data();
    for (int device = 0; device < 2; ++device) {
      backends_[device]->BeginStep(input);
      run(device, *backends_[device]);
      outputs_[device] = backends_[device]->Collect(backends_[device]->Launch());
      EXPECT_EQ(backends_[device]->error(), "");
    }
  }

  // ||cuda - cpu|| / ||cpu||, with what is not finite in the same places.
  static void ExpectNear(const std::vector<float>& cpu, const std::vector<float>& cuda,
                         double tolerance, const std::string& what) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < cpu.size(); ++i) {
      ASSERT_EQ(std::isfinite(cpu[i]), std::isfinite(cuda[i])) << what << ", element " << i;
      difference += std::pow(static_cast<double>(cuda[i]) - static_cast<double>(cpu[i]), 2);
      norm += std::pow(static_cast<double>(cpu[i]), 2);
    }
    EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(norm)) << what;
  }

  void ExpectSame(const Twin& twin, int64_t rows, double tolerance, const std::string& what) {
    const auto count = static_cast<size_t>(rows * twin.on[0].stride);
    ExpectNear(Get(0, twin.on[0].data, count), Get(1, twin.on[1].data, count), tolerance, what);
  }

  std::unique_ptr<Backend> backends_[2];
  StepOutput outputs_[2];
  std::deque<const float* [2]> pairs_;
};

// Sums of up to a few hundred terms in another order, and functions within 2 units of the last
// place.
constexpr double kTolerance = 32 * test::kEps;

std::vector<Row> Rows(std::vector<int> tokens, int64_t position = 0) {
  std::vector<Row> rows;
  int32_t first = 0;
  for (size_t r = 0; r < tokens.size(); ++r) {
    rows.push_back({static_cast<int32_t>(r), first, tokens[r], position});
    first += tokens[r];
  }
  return rows;
}

TEST_F(CudaOperationsTest, EmbedNormAndMlp) {
  Twin table = Make(7, 100, 1), out = Make(40, 100, 2), normed = Make(40, 100, 3);
  const float* const* weight = Floats(RandomFloats(100, 4));
  const float* const* bias = Floats(RandomFloats(100, 5));
  Twin last = Make(3, 100, 6), mlp = Make(40, 50, 7);
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer, NormKind::kDyT, NormKind::kDerf}) {
    Step(Rows({20, 1, 19}), [&](int device, Backend& backend) {
      backend.Embed({.table = {table.on[device].data, DType::kF32, 6, table.on[device].stride},
                     .out = out.on[device]});
      NormArgs norm = {.x = out.on[device], .y = normed.on[device], .dim = 100, .kind = kind};
      norm.weight = weight[device];
      norm.bias = kind == NormKind::kRms ? nullptr : bias[device];
      norm.alpha = 0.7f;
      norm.shift = 0.2f;
      backend.Norm(norm);
      norm.y = last.on[device];
      norm.tokens = TokenSet::kLogits;
      backend.Norm(norm);
      backend.MlpActivation({.gate_up = normed.on[device],
                             .y = mlp.on[device],
                             .size = 50,
                             .activation = Activation::kSilu});
    });
    const std::string what = "kind " + std::to_string(static_cast<int>(kind));
    ExpectSame(out, 40, 0, what);
    ExpectSame(normed, 40, kTolerance, what);
    ExpectSame(last, 3, kTolerance, what);
    ExpectSame(mlp, 40, kTolerance, what);
  }
}

TEST_F(CudaOperationsTest, RmsNormOfAnyWidth) {
  for (const int dim : {4, 130, 516, 2052, 4100}) {  // a warp to a block a row, and read twice
    Twin x = Make(40, dim, 1), y = Make(40, dim, 2);
    const float* const* weight = Floats(RandomFloats(static_cast<size_t>(dim), 3));
    Step(Rows({20, 1, 19}), [&](int device, Backend& backend) {
      backend.Norm({x.on[device], y.on[device], dim, NormKind::kRms, weight[device]});
    });
    ExpectSame(y, 40, kTolerance, std::to_string(dim) + " channels");
  }
}

TEST_F(CudaOperationsTest, MatMul) {
  constexpr int kOut = 37, kIn = 264;
  const std::vector<float> values = RandomFloats(kOut * kIn, 1);
  std::vector<uint16_t> bf16;
  for (const float value : values) {
    bf16.push_back(test::ToBf16(value));
  }
  const float* const* bias = Floats(RandomFloats(kOut, 2));
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const bool wide = dtype == DType::kF32;
    const void* const data = wide ? static_cast<const void*>(values.data()) : bf16.data();
    const void* const weight[2] = {Put(0, data, values.size() * ByteSize(dtype)),
                                   Put(1, data, values.size() * ByteSize(dtype))};
    for (const int tokens : {1, 2, 3, 8, 9, 70}) {
      for (const bool add : {false, true}) {
        for (const bool has_bias : {false, true}) {
          Twin x = Make(tokens, kIn, 3), y = Make(tokens, kOut, 4);
          Step(Rows({tokens}), [&](int device, Backend& backend) {
            backend.MatMul({.x = x.on[device],
                            .w = {weight[device], dtype, kOut, kIn},
                            .bias = has_bias ? bias[device] : nullptr,
                            .y = y.on[device],
                            .add = add});
          });
          ExpectSame(y, tokens, kTolerance, std::to_string(tokens) + " tokens");
        }
      }
    }
  }
}

// bf16 inputs, whose products are exact: on the CPU the same numbers are fp32.
TEST_F(CudaOperationsTest, MatMulOfBf16) {
  constexpr int kOut = 37, kIn = 1096;
  std::vector<uint16_t> weights;
  for (const float value : RandomFloats(kOut * kIn, 1)) {
    weights.push_back(test::ToBf16(value));
  }
  const void* const weight[2] = {Put(0, weights.data(), weights.size() * 2),
                                 Put(1, weights.data(), weights.size() * 2)};
  const float* const* bias = Floats(RandomFloats(kOut, 2));
  for (const int tokens : {1, 2, 5, 8, 9, 16, 17, 100}) {
    std::vector<uint16_t> narrow;
    std::vector<float> wide = RandomFloats(static_cast<size_t>(tokens * kIn), 3);
    for (float& value : wide) {
      narrow.push_back(test::ToBf16(value));
      value = test::FromBf16(narrow.back());
    }
    const Matrix x[2] = {{Put(0, wide.data(), wide.size() * 4), DType::kF32, kIn},
                         {Put(1, narrow.data(), narrow.size() * 2), DType::kBF16, kIn}};
    Twin y = Make(tokens, kOut, 4);
    Step(Rows({tokens}), [&](int device, Backend& backend) {
      backend.MatMul({.x = x[device],
                      .w = {weight[device], DType::kBF16, kOut, kIn},
                      .bias = bias[device],
                      .y = y.on[device],
                      .add = tokens % 2 == 0});
    });
    ExpectSame(y, tokens, kTolerance, std::to_string(tokens) + " tokens");
  }
}

TEST_F(CudaOperationsTest, MemoryOutput) {
  constexpr int kHeads = 3, kTokens = 41;
  for (const int dim : {40, 256, 300, 512, 600}) {  // one to four warps a head, and too wide for it
    const auto channels = static_cast<size_t>(kHeads * dim);
    const float* const* o = Floats(RandomFloats(kTokens * (channels + kHeads), 1));
    const float* const* weight = Floats(RandomFloats(channels, 2));
    const float* const* skip_weight = Floats(RandomFloats(channels, 3));
    Twin gate = Make(kTokens, kHeads * dim, 4), skip = Make(kTokens, kHeads * dim, 5);
    for (const OutputNorm norm :
         {OutputNorm::kBeforeGate, OutputNorm::kAfterGate, OutputNorm::kNone}) {
      for (const auto& [option, tokens] :
           {std::pair(false, 5), {false, kTokens}, {true, kTokens}}) {
        Twin y = Make(kTokens, kHeads * dim, 6);
        Step(Rows({tokens}), [&, option = option](int device, Backend& backend) {
          MemoryOutputArgs args;
          args.o = o[device];
          args.heads = kHeads;
          args.value_dim = dim;
          args.normalizer = option;
          args.norm = norm;
          args.weight = weight[device];
          args.weight_per_head = option;
          if (option) {
            args.skip = skip.on[device];
            args.skip_weight = skip_weight[device];
          }
          args.gate = gate.on[device];
          args.gate_activation = option ? Activation::kSigmoid : Activation::kSilu;
          args.y = y.on[device];
          backend.MemoryOutput(args);
        });
        ExpectSame(y, tokens, kTolerance, option ? "with options" : "plain");
      }
    }
  }
}

TEST_F(CudaOperationsTest, TokenMixOfPromptsAndDecoding) {
  constexpr int kChannels = 70, kTaps = 4, kRollback = 2;
  constexpr size_t kOffset = 64, kSlotBytes = kOffset + 2048;
  const float* const* weight = Floats(RandomFloats(kChannels * kTaps, 1));
  const float* const* bias = Floats(RandomFloats(kChannels, 2));
  const std::vector<float> garbage = RandomFloats(3 * kSlotBytes / sizeof(float), 3);
  const float* const* slots = Floats(garbage);
  int64_t position[3] = {};
  uint32_t seed = 4;
  for (const std::vector<int>& tokens :
       {std::vector<int>{40, 2, 17}, {1, 1, 1}, {1, 33, 1}, {1, 1, 1}, {3, 16, 5}, {1, 1, 1}}) {
    std::vector<Row> rows = Rows(tokens);
    int total = 0;
    for (size_t r = 0; r < 3; ++r) {
      rows[r].position = position[r];
      position[r] += tokens[r];
      total += tokens[r];
    }
    Twin x = Make(total, kChannels, seed++);
    Step(rows, [&](int device, Backend& backend) {
      TokenMixArgs args;
      args.x = x.on[device];
      args.channels = kChannels;
      args.taps = kTaps;
      args.weight = weight[device];
      args.bias = bias[device];
      args.segments = {{50, Activation::kSilu}, {20, Activation::kNone}};
      args.slots = {reinterpret_cast<std::byte*>(const_cast<float*>(slots[device])), kSlotBytes};
      args.ring_offset = kOffset;
      args.rollback = kRollback;
      backend.TokenMix(args);
    });
    ExpectSame(x, total, kTolerance, "step " + std::to_string(seed));
  }
  ExpectNear(Get(0, slots[0], garbage.size()), Get(1, slots[1], garbage.size()), 0, "the rings");
}

struct InputsCase {
  FeatureMap map;
  HeadNorm norm;
  DecayGate gate;
  bool per_channel = false;
  float rotary = 0;
  int raw_key_dim = 16;
};

TEST_F(CudaOperationsTest, MemoryInputs) {
  constexpr int kHeads = 3, kMapped = 16, kValue = 20, kTokens = 9;
  const float* const* w1 = Floats(RandomFloats(kMapped * kMapped, 1, 0.3f));
  const float* const* w2 = Floats(RandomFloats(kMapped * kMapped, 2, 0.3f));
  const float* const* b1 = Floats(RandomFloats(kMapped, 3));
  const std::vector<InputsCase> cases = {
      {FeatureMap::kIdentity, HeadNorm::kL2, DecayGate::kSoftplus, false, 10000.0f},
      {FeatureMap::kSilu, HeadNorm::kNone, DecayGate::kLogSigmoid, true},
      {FeatureMap::kRelu, HeadNorm::kSumEps, DecayGate::kBounded, true, 500.0f},
      {FeatureMap::kElu1, HeadNorm::kSum, DecayGate::kLowerBounded, true},
      {FeatureMap::kIdentity, HeadNorm::kNone, DecayGate::kSoftplus, false, 10000.0f, 256},
      {FeatureMap::kSilu, HeadNorm::kL2, DecayGate::kSoftplus, false, 500.0f, 128},
      {FeatureMap::kElu1, HeadNorm::kSum, DecayGate::kLowerBounded, true, 0, 64},
      {FeatureMap::kElementwiseProduct, HeadNorm::kNone, DecayGate::kTimeStep},
      {FeatureMap::kT2R, HeadNorm::kL2, DecayGate::kSoftplus},
      {FeatureMap::kHedgehog, HeadNorm::kNone, DecayGate::kLogSigmoid},
      {FeatureMap::kDpfp, HeadNorm::kSumEps, DecayGate::kSoftplus},
  };
  for (const InputsCase& c : cases) {
    const int times = c.map == FeatureMap::kHedgehog ? 2 : c.map == FeatureMap::kDpfp ? 8 : 1;
    const int raw = c.raw_key_dim, key_dim = times * raw;
    const int channels = c.per_channel ? key_dim : 1;
    const float* const* rate = Floats({-0.3f, -1.0f, -2.0f});
    std::vector<float> bounds = RandomFloats(static_cast<size_t>(kHeads * channels), 4, 0.1f);
    for (float& bound : bounds) {
      bound = std::fabs(bound);
    }
    const float* const* bias = Floats(bounds);
    const int columns = 2 * kHeads * raw + kHeads * kValue + kHeads * channels + kHeads;
    Twin projected = Make(kTokens, columns, 5);
    Twin q = Make(kTokens, kHeads * key_dim, 6), k = q, v = q, decay = q, beta = q;
    k = Make(kTokens, kHeads * key_dim, 6);
    v = Make(kTokens, kHeads * (kValue + 1), 7);
    decay = Make(kTokens, kHeads * channels, 8);
    beta = Make(kTokens, kHeads, 9);
    Step(Rows({kTokens}, int64_t{1} << 33), [&](int device, Backend& backend) {
      MemoryInputsArgs args;
      args.projected = projected.on[device];
      args.k_column = c.gate == DecayGate::kLowerBounded ? -1 : kHeads * raw;
      args.v_column = 2 * kHeads * raw;
      args.decay_column = args.v_column + kHeads * kValue;
      args.beta_column = args.decay_column + kHeads * channels;
      args.raw_key_dim = raw;
      args.raw_value_dim = kValue;
      args.q_map = {c.map, w1[device], b1[device], w2[device], nullptr};
      args.k_map = args.q_map;
      args.q_norm = args.k_norm = c.norm;
      args.rotary_base = c.rotary;
      args.q_scale = 0.25f;
      args.ones_column = true;
      args.decay = {c.gate, rate[device], bias[device], -5.0f,
                    c.gate == DecayGate::kTimeStep ? 2.0f : 0.0f};
      args.decay.low = c.gate == DecayGate::kTimeStep ? 0.01f : -5.0f;
      args.decay_channels = channels;
      args.beta_scale = 2;
      args.shape = {kHeads, kHeads, kHeads, kHeads, key_dim, kValue + 1};
      const auto floats = [device](Twin& twin) {
        return static_cast<float*>(twin.on[device].data);
      };
      args.q = floats(q);
      args.k = floats(k);
      args.v = floats(v);
      args.log_decay = floats(decay);
      args.beta = floats(beta);
      backend.MemoryInputs(args);
    });
    const std::string what =
        "map " + std::to_string(static_cast<int>(c.map)) + " of " + std::to_string(raw);
    for (const Twin* twin : {&q, &k, &v, &decay, &beta}) {
      ExpectSame(*twin, kTokens, kTolerance, what);
    }
  }
}

}  // namespace
}  // namespace evenflow
