// Logits of every checkpoint in tests/goldens against those stored beside it, which other programs
// computed: flash-linear-attention (*-a) and the float64 reference in tests/oracle.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "engine/model/logits.h"
#include "engine/model/model.h"
#include "engine/model/safetensors.h"

#include "gtest/gtest.h"

namespace evenflow {
namespace {

// Products of up to 256 terms, recurrences of up to 80 tokens and some ten operations a layer, each
// with rounding errors of 2^-24: fp32 ends within a few hundred of them. A wrong formula shows as
// 1e-3 or more.
constexpr double kTolerance = 256 * 0x1p-24;

// What the logits are computed on.
struct Device {
  const char* name;
  DType activations;
  double tolerance;
};

#ifdef EVENFLOW_TEST_CUDA
// bf16 rounds each activation of a layer, and the weights, to 2^-9 of its size; ten such errors a
// layer add up as squares.
constexpr Device kDevices[] = {{"cuda_fp32", DType::kF32, kTolerance},
                               {"cuda_bf16", DType::kBF16, 2e-2}};
#else
constexpr Device kDevices[] = {{"cpu", DType::kF32, kTolerance}};
#endif

// Models that magnify what bf16 rounds.
constexpr struct {
  const char* golden;
  double tolerance;
} kIllConditioned[] = {
    // Heads of 4 channels after relu, then normalised: where one small channel is left, rounding
    // decides the direction of a key. On the CPU, bf16 weights alone move these logits by 0.11.
    {"delta_net-relu", 0.2},
    // Write strength 2: a token reflects the state and nothing is ever forgotten, no error either.
    {"delta_net-identity-no-conv", 4e-2},
    // The second token's read of a head is 0.002, ten times less than the others', and the head's
    // norm makes it one: on the CPU, bf16 weights alone move that token's logits by 0.05.
    {"log_linear-dyt-normed", 4e-2},
    // Least squares divide by what few keys span: on the CPU, rounding as many activations to bf16
    // moves these logits by 0.019.
    {"vla-a", 4e-2},
};

std::vector<std::string> Goldens() {
  std::vector<std::string> names;
  for (const auto& entry :
       std::filesystem::directory_iterator(EVENFLOW_SOURCE_DIR "/tests/goldens")) {
    if (std::filesystem::exists(entry.path() / "golden.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::unique_ptr<Backend> MakeBackend(const Device& device) {
  const BackendOptions options = {.threads = 2, .activations = device.activations};
#ifdef EVENFLOW_TEST_CUDA
  std::string error;
  std::unique_ptr<Backend> backend = CreateCudaBackend(options, &error);
  EXPECT_NE(backend, nullptr) << error;
  return backend;
#else
  return CreateCpuBackend(options);
#endif
}

// One for all tests of a device.
Backend* SharedBackend(const Device& device) {
  static std::map<std::string, std::unique_ptr<Backend>> backends;
  const auto [entry, is_new] = backends.try_emplace(device.name);
  if (is_new) {
    entry->second = MakeBackend(device);
  }
  return entry->second.get();
}

// A memory may approximate its definition: a file `tolerance` beside the golden says how well.
double ApproximationOf(const std::string& directory) {
  std::ifstream file(directory + "/tolerance");
  double tolerance = 0;
  return file >> tolerance ? tolerance : 0;
}

std::vector<int32_t> ReadTokens(const Safetensors& file) {
  const TensorEntry& entry = file.tensors().at("tokens");
  std::vector<int32_t> tokens(static_cast<size_t>(entry.elements));
  EXPECT_EQ(entry.dtype, "I32");
  EXPECT_TRUE(file.ReadBytes(entry, 0, entry.bytes, tokens.data()).ok());
  return tokens;
}

std::vector<float> ReadLogits(const Safetensors& file) {
  const TensorEntry& entry = file.tensors().at("logits");
  std::vector<float> logits(static_cast<size_t>(entry.elements));
  EXPECT_TRUE(file.ReadFloats(entry, 0, entry.elements, logits.data()).ok());
  return logits;
}

// ||a - b|| / ||b||; infinite when a holds anything that is not finite.
double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  const double error = std::sqrt(difference / norm);
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

class GoldenTest : public testing::TestWithParam<std::tuple<std::string, Device>> {
 protected:
  void SetUp() override { ASSERT_NE(backend_, nullptr); }

  std::string directory() const {
    return EVENFLOW_SOURCE_DIR "/tests/goldens/" + std::get<0>(GetParam());
  }

  double Tolerance() const {
    const auto& [golden, device] = GetParam();
    for (const auto& model : kIllConditioned) {
      if (device.activations == DType::kBF16 && golden == model.golden) {
        return model.tolerance;
      }
    }
    return std::max(device.tolerance, ApproximationOf(directory()));
  }

  Backend* const backend_ = SharedBackend(std::get<1>(GetParam()));
};

TEST_P(GoldenTest, LogitsAgreeForAllWindowsAndChunks) {
  const absl::StatusOr<Safetensors> golden = Safetensors::Open(directory() + "/golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const std::vector<int32_t> tokens = ReadTokens(*golden);
  const std::vector<float> expected = ReadLogits(*golden);
  double worst = 0;
  for (const int window : {1, 7, 16, 32}) {
    ModelOptions options;
    options.window.commit = window;
    const absl::StatusOr<std::unique_ptr<Model>> model =
        Model::Load(directory(), options, *backend_);
    if (absl::IsUnimplemented(model.status())) {
      GTEST_SKIP() << model.status();
    }
    ASSERT_TRUE(model.ok()) << model.status();
    for (const int chunk : {1, 5, 64}) {
      const absl::StatusOr<std::vector<float>> logits =
          ComputeLogits(**model, *backend_, tokens, chunk);
      ASSERT_TRUE(logits.ok()) << logits.status();
      ASSERT_EQ(logits->size(), expected.size());
      const double error = RelativeError(*logits, expected);
      EXPECT_LE(error, Tolerance()) << "window " << window << ", chunk " << chunk;
      worst = std::max(worst, error);
    }
  }
  RecordProperty("worst_relative_error", testing::PrintToString(worst));
}

// The logits must see the memory, or agreement says nothing about it: with the tokens before the
// last one taken away, its logits are others.
TEST_P(GoldenTest, LogitsSeeTheMemory) {
  const absl::StatusOr<Safetensors> golden = Safetensors::Open(directory() + "/golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const std::vector<float> expected = ReadLogits(*golden);
  const absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(directory(), {}, *backend_);
  if (absl::IsUnimplemented(model.status())) {
    GTEST_SKIP() << model.status();
  }
  ASSERT_TRUE(model.ok()) << model.status();
  const absl::StatusOr<std::vector<float>> alone =
      ComputeLogits(**model, *backend_, {ReadTokens(*golden).back()}, 1);
  ASSERT_TRUE(alone.ok()) << alone.status();
  const std::vector<float> last(expected.end() - (*model)->info().vocab_size, expected.end());
  EXPECT_GE(RelativeError(*alone, last), 1000 * kTolerance);
  EXPECT_GE(RelativeError(*alone, last), 20 * ApproximationOf(directory()));
}

// No memory is trusted on its own word: each has a golden from outside its code.
TEST(GoldenCoverageTest, EveryMemoryHasAGolden) {
  const std::unique_ptr<Backend> backend = CreateCpuBackend({.threads = 1});
  std::set<std::string> covered;
  for (const std::string& name : Goldens()) {
    const absl::StatusOr<std::unique_ptr<Model>> model =
        Model::Load(EVENFLOW_SOURCE_DIR "/tests/goldens/" + name, {}, *backend);
    ASSERT_TRUE(model.ok()) << model.status();
    covered.insert((*model)->info().memories.begin(), (*model)->info().memories.end());
  }
#define EVENFLOW_NAME(memory) Name(MemoryKind::k##memory),
  for (const char* memory : {EVENFLOW_MEMORIES(EVENFLOW_NAME)}) {
    EXPECT_TRUE(covered.contains(memory)) << memory << " has no golden in tests/goldens";
  }
#undef EVENFLOW_NAME
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTest,
                         testing::Combine(testing::ValuesIn(Goldens()),
                                          testing::ValuesIn(kDevices)),
                         [](const auto& param) {
                           std::string name =
                               std::get<0>(param.param) + "_on_" + std::get<1>(param.param).name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace evenflow
