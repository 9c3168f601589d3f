#include "engine/engine.h"

#include <algorithm>
#include <utility>

#include "engine/engine_impl.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

absl::Status AtLeast(const char* option, int64_t value, int64_t low) {
  if (value >= low) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(option, " is ", value, "; it must be at least ", low));
}

absl::Status CheckOptions(const EngineOptions& options, const Window& window) {
  const std::pair<absl::Status, int> checks[] = {
      {AtLeast("max_sessions", options.max_sessions, 0), 0},
      {AtLeast("max_checkpoints", options.max_checkpoints, 0), 0},
      {AtLeast("host_memory_bytes", options.host_memory_bytes.value_or(0), 0), 0},
      {AtLeast("max_queue", options.max_queue, 0), 0},
      // A stream beside one block of input.
      {AtLeast("step_tokens", options.step_tokens, BlockTokens(window) + 1), 0},
      {AtLeast("max_rows", options.max_rows, 2), 0},
      {AtLeast("max_prompt_tokens", options.max_prompt_tokens, 1), 0},
      {AtLeast("outbox_tokens", options.outbox_tokens, 1), 0},
      {AtLeast("history_tokens", options.history_tokens, 1), 0},
  };
  for (const auto& [status, unused] : checks) {
    if (!status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options,
                                                       std::unique_ptr<Forwarder> model,
                                                       Backend& backend, EngineObserver observer) {
  if (auto status = CheckOptions(options, model->window()); !status.ok()) {
    return status;
  }
  const PoolSize size =
      FitPool(backend, model->slot_bytes(), {options.max_sessions, options.max_checkpoints});
  auto pool = StatePool::Create(backend, model->slot_bytes(), size);
  if (!pool.ok()) {
    return pool.status();
  }
  EngineOptions resolved = options;
  resolved.max_sessions = size.sessions;
  resolved.max_checkpoints = size.checkpoints;
  const int host_slots = HostSlotCount(backend, model->slot_bytes(), options.host_memory_bytes);
  auto impl =
      std::make_shared<Impl>(resolved, std::move(model), backend, *std::move(pool), host_slots);
  if (absl::Status status = impl->Start(std::move(observer)); !status.ok()) {
    return status;
  }
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::Engine(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Engine::~Engine() {
  impl_->Stop();
}

const Forwarder& Engine::model() const {
  return impl_->model();
}

const EngineOptions& Engine::options() const {
  return impl_->options;
}

EngineGauges Engine::Gauges() const {
  return impl_->Gauges();
}

absl::StatusOr<SessionInfo> Engine::CreateSession(
    const std::string& id, std::optional<std::chrono::milliseconds> idle_timeout) {
  return impl_->CreateSession(id, idle_timeout);
}

absl::StatusOr<SessionInfo> Engine::GetSession(const std::string& id) const {
  return impl_->GetSession(id);
}

std::vector<SessionInfo> Engine::ListSessions(const std::string& after, int limit) const {
  return impl_->ListSessions(after, limit);
}

absl::Status Engine::DeleteSession(const std::string& id) {
  return impl_->DeleteSession(id);
}

absl::StatusOr<SessionLease> Engine::Attach(const std::string& session_id) {
  auto session = impl_->Attach(session_id);
  if (!session.ok()) {
    return session.status();
  }
  SessionLease lease;
  lease.state_ = std::make_shared<SessionLease::State>(impl_, *std::move(session));
  return lease;
}

absl::StatusOr<std::shared_ptr<Outbox>> Engine::Submit(SessionLease& lease, EngineRequest request) {
  return impl_->Submit(lease.state_->session, std::move(request));
}

void Engine::Drain(SteadyTime deadline) {
  impl_->Drain(deadline);
}

SessionLease::SessionLease(SessionLease&& other) noexcept = default;
SessionLease& SessionLease::operator=(SessionLease&& other) noexcept = default;
SessionLease::~SessionLease() = default;

const std::string& SessionLease::session_id() const {
  return state_->session->id;
}

int64_t SessionLease::position() const {
  return state_->session->position.load();
}

}  // namespace evenflow
