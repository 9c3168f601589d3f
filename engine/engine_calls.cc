// The engine as its callers meet it: sessions, admission, draining. Any thread; nothing here waits
// for a step but Drain and Stop.
#include <algorithm>
#include <utility>

#include "engine/engine_impl.h"

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

absl::Status Draining() {
  return absl::UnavailableError("the server is shutting down");
}

absl::Status NoSession(const std::string& id) {
  return absl::NotFoundError(absl::StrCat("there is no session '", id, "'"));
}

absl::Status CheckTokens(const char* field, const std::vector<int32_t>& tokens, int vocab_size) {
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          field, " has token ", token, "; tokens must be in [0, ", vocab_size - 1, "]"));
    }
  }
  return absl::OkStatus();
}

// Until min_tokens were generated, stop tokens may not be chosen: something else must be left.
absl::Status CheckChoice(const EngineRequest& request, int vocab_size) {
  if (request.min_tokens == 0) {
    return absl::OkStatus();
  }
  std::vector<int32_t> banned = request.stop_tokens;
  std::sort(banned.begin(), banned.end());
  banned.erase(std::unique(banned.begin(), banned.end()), banned.end());
  const std::vector<int32_t>& allowed = request.sampling.allowed_tokens;
  const bool choice = allowed.empty() ? banned.size() < static_cast<size_t>(vocab_size)
                                      : !std::includes(banned.begin(), banned.end(),
                                                       allowed.begin(), allowed.end());
  return choice ? absl::OkStatus()
                : absl::InvalidArgumentError(
                      absl::StrCat("min_tokens is ", request.min_tokens,
                                   ", but every token allowed is a stop token; it must be 0 then"));
}

}  // namespace

Engine::Impl::Impl(const EngineOptions& engine_options, std::unique_ptr<Forwarder> forwarder,
                   Backend& device, std::unique_ptr<StatePool> states, int host_slots)
    : options(engine_options),
      forwarder_(std::move(forwarder)),
      backend_(device),
      pool_(std::move(states)),
      tiers_(std::make_unique<StateTiers>(device, *pool_, host_slots)),
      sessions_(static_cast<size_t>(places_) + static_cast<size_t>(options.max_queue)),
      unclaimed_places_(places_) {
  gauges_.host_slots_total = tiers_->host_slots();
}

absl::Status Engine::Impl::Start(EngineObserver observer) {
  observer_ = std::move(observer);
  if (absl::Status status = RunFirstSteps(); !status.ok()) {
    return status;
  }
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void Engine::Impl::Stop() {
  {
    MutexLock lock(mutex_);
    draining_ = true;
    stopping_ = true;
    dismissal_ = Draining();
  }
  doorbell_->Ring();
  thread_.join();
  // Leases may keep this object for longer than the backend lives.
  tiers_.reset();
  pool_.reset();
  forwarder_.reset();
}

SessionInfo Engine::Impl::Describe(const Session& session) const {
  SessionInfo info;
  info.id = session.id;
  info.position = session.position.load();
  info.busy = session.leased;
  info.quarantined = session.quarantined.load();
  info.created = session.created;
  const SteadyTime now = std::chrono::steady_clock::now();
  info.expires =
      absl::Now() + absl::FromChrono(session.leased ? session.idle_timeout : session.expires - now);
  const StatePlace place = session.place.load();
  info.state_bytes = place == StatePlace::kNowhere ? 0 : static_cast<int64_t>(state_bytes_);
  info.on_host = place == StatePlace::kHost;
  return info;
}

absl::StatusOr<SessionInfo> Engine::Impl::CreateSession(
    const std::string& id, std::optional<std::chrono::milliseconds> idle_timeout) {
  if (!id.empty()) {
    if (auto status = ValidateSessionId(id); !status.ok()) {
      return status;
    }
  }
  if (idle_timeout &&
      (*idle_timeout < std::chrono::seconds(1) || *idle_timeout > options.max_idle_timeout)) {
    return absl::InvalidArgumentError(absl::StrCat("idle_timeout is ", idle_timeout->count(),
                                                   " ms; it must be in [1000, ",
                                                   options.max_idle_timeout.count(), "] ms"));
  }
  auto session = std::make_shared<Session>(id.empty() ? RandomSessionId() : id,
                                           idle_timeout.value_or(options.idle_timeout),
                                           options.history_tokens);
  session->expires = std::chrono::steady_clock::now() + session->idle_timeout;
  MutexLock lock(mutex_);
  if (draining_) {
    return Draining();
  }
  if (auto status = sessions_.Insert(session); !status.ok()) {
    return status;
  }
  NoteExpiry(*session);
  return Describe(*session);
}

void Engine::Impl::NoteExpiry(const Session& session) {
  if (session.expires < next_expiry_) {
    next_expiry_ = session.expires;
    doorbell_->Ring();  // it may sleep for longer
  }
}

absl::StatusOr<SessionInfo> Engine::Impl::GetSession(const std::string& id) const {
  MutexLock lock(mutex_);
  const auto session = sessions_.Find(id);
  if (session == nullptr) {
    return NoSession(id);
  }
  return Describe(*session);
}

std::vector<SessionInfo> Engine::Impl::ListSessions(const std::string& after, int limit) const {
  std::vector<SessionInfo> infos;
  MutexLock lock(mutex_);
  for (const auto& session : sessions_.List(after, static_cast<size_t>(std::max(limit, 0)))) {
    infos.push_back(Describe(*session));
  }
  return infos;
}

void Engine::Impl::End(const std::shared_ptr<Session>& session) {
  session->ended = true;
  if (session->claims_place) {
    session->claims_place = false;
    ++unclaimed_places_;
  }
  ended_sessions_.push_back(session);
  doorbell_->Ring();
}

absl::Status Engine::Impl::DeleteSession(const std::string& id) {
  MutexLock lock(mutex_);
  const auto session = sessions_.Find(id);
  if (session == nullptr) {
    return NoSession(id);
  }
  if (session->leased || session->requested) {
    return absl::AbortedError(absl::StrCat("session '", id, "' is busy with a request"));
  }
  sessions_.Erase(id);
  End(session);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Session>> Engine::Impl::Attach(const std::string& id) {
  MutexLock lock(mutex_);
  if (draining_) {
    return Draining();
  }
  auto session = id.empty()
                     ? std::make_shared<Session>("", options.idle_timeout, options.history_tokens)
                     : sessions_.Find(id);
  if (session == nullptr) {
    return NoSession(id);
  }
  if (session->leased || session->requested) {
    return absl::AbortedError(absl::StrCat("session '", id, "' is busy with another request"));
  }
  if (session->quarantined.load()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the memory of session '", id, "' has gone bad (non-finite values); delete the session"));
  }
  session->leased = true;
  return session;
}

void Engine::Impl::Detach(const std::shared_ptr<Session>& session) {
  MutexLock lock(mutex_);
  session->leased = false;
  if (session->id.empty()) {
    End(session);
    return;
  }
  session->expires = std::chrono::steady_clock::now() + session->idle_timeout;
  NoteExpiry(*session);
}

absl::Status Engine::Impl::CheckRequest(const EngineRequest& request) const {
  const int vocab_size = model().info().vocab_size;
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  if (prompt_tokens > options.max_prompt_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("prompt has ", prompt_tokens,
                                                   " tokens; at most ", options.max_prompt_tokens,
                                                   " are allowed"));
  }
  if (auto status = CheckTokens("prompt", request.prompt, vocab_size); !status.ok()) {
    return status;
  }
  if (!request.generate) {
    return absl::OkStatus();
  }
  if (request.max_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", request.max_tokens, "; it must be at least 1"));
  }
  if (request.min_tokens < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_tokens is ", request.min_tokens, "; it must be at least 0"));
  }
  if (auto status = CheckTokens("stop_token_ids", request.stop_tokens, vocab_size); !status.ok()) {
    return status;
  }
  if (auto status = ValidateSampling(request.sampling, vocab_size); !status.ok()) {
    return status;
  }
  return CheckChoice(request, vocab_size);
}

absl::Status Engine::Impl::CheckTurn(const Session& session, const EngineRequest& request) const {
  if (draining_) {
    return Draining();
  }
  if (session.requested) {
    return absl::FailedPreconditionError("the session's last request has not ended yet");
  }
  if (session.quarantined.load()) {
    return absl::FailedPreconditionError(
        "the session's memory has gone bad (non-finite values); it can only be deleted");
  }
  const int64_t position = session.position.load();
  if (request.expected_position && *request.expected_position != position) {
    return absl::FailedPreconditionError(absl::StrCat(
        "expected_position is ", *request.expected_position, ", but the session is at ", position));
  }
  if (request.prompt.empty() && position == 0) {
    return absl::InvalidArgumentError("prompt is empty and the session has no tokens");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Outbox>> Engine::Impl::Submit(
    const std::shared_ptr<Session>& session, EngineRequest request) {
  if (auto status = CheckRequest(request); !status.ok()) {
    return status;
  }
  auto outbox = std::make_shared<Outbox>([bell = doorbell_] { bell->Ring(); });
  {
    MutexLock lock(mutex_);
    if (auto status = CheckTurn(*session, request); !status.ok()) {
      return status;
    }
    // Where there is host memory, requests may wait that have a place, but no slot yet.
    if ((!session->claims_place && unclaimed_places_ <= -options.max_queue) ||
        unfinished_ - options.max_sessions >= options.max_queue) {
      return absl::ResourceExhaustedError(
          absl::StrCat("all ", options.max_sessions, " state slots are taken and ",
                       options.max_queue, " requests wait already, as many as may"));
    }
    inbox_.push_back(std::make_unique<ActiveRequest>(std::move(request), session, outbox));
    if (!session->claims_place) {
      session->claims_place = true;
      --unclaimed_places_;
    }
    session->requested = true;
    ++unfinished_;
  }
  doorbell_->Ring();
  return outbox;
}

void Engine::Impl::Drain(SteadyTime deadline) {
  MutexLock lock(mutex_);
  draining_ = true;
  while (unfinished_ > 0) {
    all_finished_.WaitUntil(mutex_, dismissal_.ok() ? deadline : SteadyTime::max());
    if (unfinished_ > 0 && std::chrono::steady_clock::now() >= deadline) {
      dismissal_ = Draining();
      doorbell_->Ring();
    }
  }
}

EngineGauges Engine::Impl::Gauges() const {
  MutexLock lock(mutex_);
  EngineGauges gauges = gauges_;
  gauges.waiting = unfinished_ - gauges.running;
  gauges.slots_total = options.max_sessions;
  gauges.sessions = static_cast<int>(sessions_.size());
  gauges.quarantined = sessions_.quarantined();
  return gauges;
}

}  // namespace evenflow
