#include "engine/model/model.h"

#include <filesystem>
#include <utility>

#include "engine/model/config.h"
#include "engine/model/families/family.h"
#include "engine/model/files.h"
#include "engine/model/fit_memories.h"
#include "engine/model/forward.h"
#include "engine/model/safetensors.h"
#include "engine/model/weights.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

constexpr uint64_t kMaxConfigBytes = uint64_t{16} << 20;

absl::Status CheckOptions(const ModelOptions& options) {
  const auto check = [](absl::string_view name, int value, int min, int max) {
    return value >= min && value <= max
               ? absl::OkStatus()
               : absl::InvalidArgumentError(
                     absl::StrCat(name, " is ", value, "; allowed: ", min, " to ", max));
  };
  absl::Status status = check("window", options.window.commit, 1, 1024);
  status.Update(check("rollback", options.window.rollback, 0, 1024));
  status.Update(check("max_step_tokens", options.max_step_tokens, 1, 1 << 20));
  status.Update(check("max_step_logits", options.max_step_logits, 1, 1 << 20));
  return status;
}

std::string LastPart(const std::string& directory) {
  std::error_code error;
  std::filesystem::path path = std::filesystem::absolute(directory, error).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

absl::Status CheckDevice(const ModelPlan& plan, const Backend& backend) {
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    const MixerPlan& mixer = plan.layers[i].mixer;
    const std::string refusal = mixer.attention.has_value()
                                    ? backend.Refusal(*mixer.attention)
                                    : backend.Refusal(mixer.token_mix, mixer.advance);
    if (!refusal.empty()) {
      return absl::UnimplementedError(
          absl::StrCat("layer ", i, ": ", backend.Describe(), " does not serve ", refusal));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Config> ReadConfig(const std::string& directory) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    return absl::NotFoundError(
        absl::StrCat(directory,
                     ": is not a directory; expected one with config.json and "
                     "model.safetensors"));
  }
  const std::string path = absl::StrCat(directory, "/config.json");
  absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxConfigBytes);
  return text.ok() ? Config::Parse(*text, path) : text.status();
}

}  // namespace

struct Model::Impl {
  explicit Impl(Backend& backend) : memory(backend) {}

  BackendMemory memory;
  ModelOptions options;
  ModelInfo info;
  std::vector<LayerInfo> layers;
  ModelPlan plan;
  size_t slot_bytes = 0;
};

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Model::~Model() = default;

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& directory,
                                                   const ModelOptions& options, Backend& backend) {
  if (absl::Status status = CheckOptions(options); !status.ok()) {
    return status;
  }
  absl::StatusOr<Config> config = ReadConfig(directory);
  if (!config.ok()) {
    return config.status();
  }
  absl::StatusOr<Family> family = FindFamily(*config);
  if (!family.ok()) {
    return family.status();
  }
  // A plan without weights shows every error of the config before reading any.
  Config draft = *config;
  Weights none;
  if (absl::Status status = PlanModel(*family, draft, none).status(); !status.ok()) {
    return status;
  }
  absl::StatusOr<Safetensors> checkpoint = Safetensors::Open(directory);
  if (!checkpoint.ok()) {
    return checkpoint.status();
  }

  auto impl = std::make_unique<Impl>(backend);
  Weights weights(*checkpoint, impl->memory, options.progress);
  absl::StatusOr<ModelPlan> plan = PlanModel(*family, *config, weights);
  if (!plan.ok()) {
    return plan.status();
  }
  impl->options = options;
  impl->plan = *std::move(plan);
  impl->options.window = FitWindow(impl->plan, options.window);
  absl::Status status = FitPowerLaws(impl->options.window, impl->memory, impl->plan);
  impl->slot_bytes = PlaceStates(impl->options, impl->plan, &impl->layers);
  status.Update(BindBuffers(options, impl->memory, impl->plan));
  status.Update(CheckDevice(impl->plan, backend));
  if (!status.ok()) {
    return status;
  }

  ModelInfo& info = impl->info;
  info.name = LastPart(directory);
  info.model_type = std::string(family->model_type);
  info.parameters = weights.parameters();
  info.vocab_size = impl->plan.vocab_size;
  info.hidden_size = impl->plan.hidden_size;
  info.options = config->read().dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  for (const LayerInfo& layer : impl->layers) {
    info.memories.push_back(layer.memory);
  }
  info.eos_tokens = config->Tokens("eos_token_id", {2});
  const std::vector<int32_t> bos = config->Tokens("bos_token_id", {1});
  if (!bos.empty()) {
    info.bos_token = bos.front();
  }
  if (!config->status().ok()) {
    return config->status();
  }
  return std::unique_ptr<Model>(new Model(std::move(impl)));
}

const ModelInfo& Model::info() const {
  return impl_->info;
}

const ModelOptions& Model::options() const {
  return impl_->options;
}

const std::vector<LayerInfo>& Model::layers() const {
  return impl_->layers;
}

const Window& Model::window() const {
  return impl_->options.window;
}

size_t Model::slot_bytes() const {
  return impl_->slot_bytes;
}

std::vector<StatePlane> Model::state_planes() const {
  std::vector<StatePlane> planes;
  for (size_t i = 0; i < impl_->layers.size(); ++i) {
    const LayerInfo& layer = impl_->layers[i];
    if (layer.attention_window == 0) {
      planes.push_back({static_cast<int>(i), "state"});
    }
    if (layer.preconditioner_bytes > 0) {
      planes.push_back({static_cast<int>(i), "preconditioner"});
    }
  }
  return planes;
}

void Model::Forward(const Slots& slots) {
  RunForward(slots, impl_->plan, impl_->memory.backend());
}

const Matrix& Model::logits() const {
  return impl_->plan.head.y;
}

}  // namespace evenflow
