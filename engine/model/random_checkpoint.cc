#include "engine/model/random_checkpoint.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/families/family.h"
#include "engine/model/safetensors_writer.h"
#include "engine/model/weights.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace evenflow {
namespace {

// splitmix64: one multiplication chain for four 16-bit numbers.
class Generator {
 public:
  explicit Generator(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

// Numbers are uniform in center +- spread.
struct Distribution {
  float center = 0;
  float spread = 0;
};

Distribution DistributionOf(const TensorPart& tensor) {
  const std::string& name = tensor.name;
  if (absl::EndsWith(name, "A_log")) {
    return {-3, 2};  // memories of a few to some hundred tokens
  }
  if (absl::EndsWith(name, "embeddings.weight")) {
    return {0, 1.7f};
  }
  if (tensor.shape.size() == 2) {
    const auto inputs = static_cast<float>(tensor.shape[1]);
    const float gain = absl::EndsWith(name, "lm_head.weight") ? 2.0f : 1.0f;
    return {0, gain * std::sqrt(3 / inputs)};
  }
  if (tensor.shape.size() == 3) {
    return {0, 0.9f};  // convolution taps
  }
  return absl::EndsWith(name, ".weight") ? Distribution{1, 0.4f} : Distribution{0, 1};
}

// Truncated to bf16, which is random enough.
void Fill(const Distribution& distribution, Generator& generator, std::vector<uint16_t>* values) {
  const float scale = distribution.spread * 0x1p-15f;
  for (size_t i = 0; i + 4 <= values->size(); i += 4) {
    const uint64_t bits = generator.Next();
    for (size_t j = 0; j < 4; ++j) {
      const auto number = static_cast<int16_t>(bits >> (16 * j) & 0xffff);
      const float value = distribution.center + scale * static_cast<float>(number);
      (*values)[i + j] = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
    }
  }
}

absl::Status WriteTensors(const std::string& path, const std::vector<TensorPart>& tensors,
                          uint64_t seed) {
  std::vector<TensorHeader> headers;
  for (const TensorPart& tensor : tensors) {
    headers.push_back({tensor.name, "BF16", tensor.shape});
  }
  absl::StatusOr<SafetensorsWriter> writer = SafetensorsWriter::Create(path, headers);
  if (!writer.ok()) {
    return writer.status();
  }
  Generator generator(seed);
  std::vector<uint16_t> values;
  for (const TensorPart& tensor : tensors) {
    size_t left = 1;
    for (const int64_t size : tensor.shape) {
      left *= static_cast<size_t>(size);
    }
    while (left > 0) {
      const size_t count = std::min(left, size_t{1} << 20);
      values.resize((count + 3) / 4 * 4);
      Fill(DistributionOf(tensor), generator, &values);
      if (absl::Status status = writer->Append(values.data(), count * 2); !status.ok()) {
        return status;
      }
      left -= count;
    }
  }
  return writer->Finish();
}

}  // namespace

std::string RandomConfig(const RandomModel& model) {
  nlohmann::ordered_json config = {{"model_type", model.model_type},
                                   {"hidden_size", model.hidden_size},
                                   {"num_hidden_layers", model.layers},
                                   {"num_heads", model.heads},
                                   {"vocab_size", model.vocab_size}};
  if (model.model_type == "gated_deltanet" || model.model_type == "kda" ||
      model.model_type == "rwkv7") {
    config["head_dim"] = model.hidden_size / model.heads;
  }
  if (model.model_type == "hgrn2") {
    config["expand_ratio"] = model.hidden_size / model.heads;
  }
  if (model.model_type == "mamba2") {
    config["head_dim"] = 2 * model.hidden_size / model.heads;
  }
  return config.dump(2);
}

absl::Status WriteRandomCheckpoint(const std::string& directory, const std::string& config,
                                   uint64_t seed) {
  const std::string path = absl::StrCat(directory, "/config.json");
  absl::StatusOr<Config> parsed = Config::Parse(config, path);
  if (!parsed.ok()) {
    return parsed.status();
  }
  absl::StatusOr<Family> family = FindFamily(*parsed);
  if (!family.ok()) {
    return family.status();
  }
  Weights weights;  // only notes what the model asks for
  if (absl::Status status = PlanModel(*family, *parsed, weights).status(); !status.ok()) {
    return status;
  }
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  std::ofstream file(path);
  file << config << "\n";
  if (!file.flush()) {
    return absl::UnavailableError(absl::StrCat(path, ": cannot be written"));
  }
  return WriteTensors(absl::StrCat(directory, "/model.safetensors"), weights.asked(), seed);
}

}  // namespace evenflow
