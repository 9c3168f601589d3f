#include "server/server.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <utility>
#include <vector>

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>

#include "engine/tokenizer/tokenizer.h"
#include "server/generation_service.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/metrics_server.h"
#include "server/models_service.h"
#include "server/serving.h"
#include "server/sessions_service.h"
#include "server/workers.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace evenflow {

namespace {

// Threads that tokenize long texts.
constexpr int kTokenizingThreads = 1;
// Of a step unless the flag says otherwise: what prompts gain against what streams beside them
// lose.
constexpr int kCpuStepTokens = 256;
constexpr int kCudaStepTokens = 512;
constexpr int kMaxMetadataBytes = 16 << 10;
// What is left to say after a drain: last messages, health watchers.
constexpr std::chrono::seconds kGoodbye{1};

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& directory,
                                                         const ModelInfo& info) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::FromDirectory(directory);
  if (absl::IsNotFound(tokenizer.status())) {
    Log(LogLevel::kWarning, tokenizer.status().message(), ": only token ids are served");
    return nullptr;
  }
  if (tokenizer.ok() && (*tokenizer)->vocab_size() > info.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory, ": the tokenizer has token ids up to ", (*tokenizer)->vocab_size() - 1,
        "; the model's vocab_size is ", info.vocab_size));
  }
  return tokenizer;
}

// What the tokenizer puts before a text. A template that only ends texts has no BOS.
std::optional<int32_t> BosToken(const Tokenizer* tokenizer, const ModelInfo& info) {
  if (tokenizer == nullptr) {
    return std::nullopt;
  }
  const absl::StatusOr<std::vector<int32_t>> around = tokenizer->Encode("", {.add_special = true});
  if (!around.ok() || around->empty()) {
    return std::nullopt;
  }
  const int32_t first = around->front();
  const bool ends_texts =
      std::find(info.eos_tokens.begin(), info.eos_tokens.end(), first) != info.eos_tokens.end();
  return ends_texts && info.bos_token != first ? std::nullopt : std::optional(first);
}

std::string HostOf(const std::string& address) {
  return address.substr(0, address.rfind(':'));
}

// What was chosen for the memories, once for adjacent layers.
void LogMemories(const Model& model) {
  std::string last;
  for (const LayerInfo& layer : model.layers()) {
    if (!layer.detail.empty() && layer.detail != last) {
      Log(LogLevel::kInfo, layer.memory, ": ", layer.detail, ", ", layer.banks, " states a head");
    }
    last = layer.detail;
  }
}

}  // namespace

// Declared in the order of dependence: what comes later goes first.
struct Server::Parts {
  explicit Parts(const ServeOptions& from) : options(from) {}

  absl::Status Load(std::function<void(double)> progress);
  absl::Status Listen();
  void SetHealth(bool serving);

  const ServeOptions options;
  std::unique_ptr<Workers> delivery, tokenizing;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Metrics> metrics;
  std::unique_ptr<Engine> engine;
  Serving serving;
  std::unique_ptr<GenerationService> generation;
  std::unique_ptr<SessionsService> sessions;
  std::unique_ptr<ModelsService> models;
  std::unique_ptr<MetricsServer> metrics_server;
  std::unique_ptr<grpc::Server> grpc_server;
  std::string address, metrics_address;
};

absl::Status Server::Parts::Load(std::function<void(double)> progress) {
  absl::StatusOr<std::unique_ptr<Backend>> made = MakeBackend(options.device);
  if (!made.ok()) {
    return made.status();
  }
  backend = *std::move(made);
  EngineOptions engine_options = options.engine;
  if (engine_options.step_tokens == 0) {
    engine_options.step_tokens = options.device.device == "cuda" ? kCudaStepTokens : kCpuStepTokens;
  }
  ModelOptions model_options;
  model_options.window = options.window;
  model_options.state_dtype = options.state_dtype;
  model_options.max_step_tokens = std::max(engine_options.step_tokens, engine_options.max_rows);
  model_options.max_step_logits = engine_options.max_rows;
  model_options.progress = std::move(progress);
  absl::StatusOr<std::unique_ptr<Model>> model =
      Model::Load(options.model_directory, model_options, *backend);
  if (!model.ok()) {
    return model.status();
  }
  const ModelInfo info = (*model)->info();
  LogMemories(**model);
  absl::StatusOr<std::unique_ptr<Tokenizer>> read = LoadTokenizer(options.model_directory, info);
  if (!read.ok()) {
    return read.status();
  }
  tokenizer = *std::move(read);
  serving.model_name = options.model_name.empty() ? info.name : options.model_name;
  metrics = std::make_unique<Metrics>(serving.model_name, (*model)->state_planes());
  EngineObserver observer = metrics->Observer();
  observer.on_warm_up = [](int sizes, double seconds) {
    Log(LogLevel::kInfo, "warmed up steps of ", sizes, " sizes in ",
        absl::StrFormat("%.1f s", seconds));
  };
  observer.on_host_memory_refused = [](int host_slots) {
    Log(LogLevel::kWarning, "there is less host memory than --host-memory allows: slots for the ",
        "states of ", host_slots, " idle sessions are all");
  };
  absl::StatusOr<std::unique_ptr<Engine>> started =
      Engine::Create(engine_options, *std::move(model), *backend, std::move(observer));
  if (!started.ok()) {
    return started.status();
  }
  engine = *std::move(started);
  const EngineOptions& fitted = engine->options();
  Log(LogLevel::kInfo, "states of ", fitted.max_sessions, " sessions and ", fitted.max_checkpoints,
      " checkpoints, ", engine->model().slot_bytes(), " bytes each; host memory for ",
      engine->Gauges().host_slots_total, " idle ones");
  metrics->SetGauges([this] { return engine->Gauges(); });
  delivery = std::make_unique<Workers>(options.delivery_threads);
  tokenizing = std::make_unique<Workers>(kTokenizingThreads);
  serving.engine = engine.get();
  serving.tokenizer = tokenizer.get();
  serving.metrics = metrics.get();
  serving.delivery = delivery.get();
  serving.tokenizing = tokenizing.get();
  serving.device = backend->Describe();
  serving.bos_token = BosToken(tokenizer.get(), info);
  serving.allow_session_listing = options.allow_session_listing;
  return absl::OkStatus();
}

absl::Status Server::Parts::Listen() {
  generation = std::make_unique<GenerationService>(serving);
  sessions = std::make_unique<SessionsService>(serving);
  models = std::make_unique<ModelsService>(serving);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();

  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port);
  // Two servers that share a port would each get a part of the requests.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  grpc::ResourceQuota quota("evenflow");
  quota.Resize(static_cast<size_t>(options.memory_quota_mib) << 20);
  builder.SetResourceQuota(quota);
  builder.RegisterService(generation.get());
  builder.RegisterService(sessions.get());
  builder.RegisterService(models.get());
  grpc_server = builder.BuildAndStart();
  if (grpc_server == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("--listen: address ", options.listen, " is in use or cannot be bound"));
  }
  address = absl::StrCat(HostOf(options.listen), ":", port);

  if (options.metrics_listen != "none") {
    auto http = MetricsServer::Start(options.metrics_listen, *metrics);
    if (!http.ok()) {
      return http.status();
    }
    metrics_server = *std::move(http);
    metrics_address = absl::StrCat(HostOf(options.metrics_listen), ":", metrics_server->port());
  }
  SetHealth(true);
  return absl::OkStatus();
}

void Server::Parts::SetHealth(bool is_serving) {
  if (metrics_server != nullptr) {
    metrics_server->SetReady(is_serving);
  }
  grpc::HealthCheckServiceInterface* health = grpc_server->GetHealthCheckService();
  for (const char* service :
       {"", "evenflow.v1.Generation", "evenflow.v1.Sessions", "evenflow.v1.Models"}) {
    health->SetServingStatus(service, is_serving);
  }
}

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServeOptions& options,
                                                      std::function<void(double)> progress) {
  if (absl::Status status = CheckServeOptions(options); !status.ok()) {
    return status;
  }
  std::unique_ptr<Server> server(new Server(std::make_unique<Parts>(options)));
  if (absl::Status status = server->parts_->Load(std::move(progress)); !status.ok()) {
    return status;
  }
  if (absl::Status status = server->parts_->Listen(); !status.ok()) {
    return status;
  }
  return server;
}

Server::~Server() {
  Parts& parts = *parts_;
  if (parts.grpc_server != nullptr) {
    parts.grpc_server->Shutdown(std::chrono::system_clock::now());
    parts.grpc_server->Wait();
  }
  // The engine still pokes calls until it is gone; their workers go after it.
  parts.metrics_server.reset();
  parts.engine.reset();
}

const std::string& Server::address() const {
  return parts_->address;
}

const std::string& Server::metrics_address() const {
  return parts_->metrics_address;
}

void Server::Drain() {
  Parts& parts = *parts_;
  parts.SetHealth(false);
  parts.serving.draining.store(true);
  parts.generation->OnDraining();
  const auto limit = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::duration<double>(parts.options.drain_timeout_seconds));
  parts.engine->Drain(std::chrono::steady_clock::now() + limit);
  parts.generation->OnDraining();
  parts.grpc_server->Shutdown(std::chrono::system_clock::now() + kGoodbye);
}

}  // namespace evenflow
