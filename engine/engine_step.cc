// The engine thread: a step, from its plan to its completion.
#include <algorithm>
#include <new>
#include <thread>
#include <utility>

#include "engine/engine_impl.h"

#include "absl/strings/str_cat.h"

namespace evenflow {

bool Engine::Impl::Step() {
  const bool launched = Launch(Plan());
  const std::optional<Batch> collected = Collect(launched);
  Deliver(collected);
  const bool completed = Complete();
  return launched || collected || completed;
}

void Engine::Impl::Run() {
  while (true) {
    try {
      if (Step()) {
        continue;
      }
    } catch (const std::bad_alloc&) {
      FailRunning("the server ran out of memory in a step");
      continue;
    }
    {
      MutexLock lock(mutex_);
      if (stopping_ && unfinished_ == 0) {
        return;
      }
    }
    doorbell_->Wait(NextTimer());
  }
}

Engine::Impl::Batch Engine::Impl::Plan() {
  Batch batch;
  batch.planned = std::chrono::steady_clock::now();
  TakeCalls(batch.planned);
  TakePlaces();
  std::vector<ActiveRequest*> ready;
  std::vector<Task> tasks;
  int returning = 0, fresh = 0;
  for (const auto& request : requests_) {
    Session& session = *request->session;
    if (session.holder == nullptr) {
      session.holder = request.get();
      tiers_->SetInUse(session);
    }
    Attend(*request, batch.planned);
    if (!CanGoOn(*request) || (request->NeedsCheckpointSlot() && !pool_->has_checkpoints())) {
      continue;
    }
    returning += session.host_slot ? 1 : 0;
    fresh += session.has_state() ? 0 : 1;
    if (session.has_state() || tiers_->room() > 0) {
      ready.push_back(request.get());
      tasks.push_back(request->NextTask());
    }
  }
  tiers_->MakeRoom(returning, fresh);
  if (std::exchange(readers_behind_, false)) {
    std::this_thread::yield();
  }
  const SchedulerLimits limits{options.step_tokens, options.max_rows, BlockTokens(window_)};
  const auto segments = Schedule(limits, tasks, pool_->free(), batch.planned);
  for (const Segment& segment : SpreadFolds(window_, tasks, segments)) {
    const auto task = static_cast<size_t>(segment.task);
    if (!AddRow(*ready[task], segment.tokens, &batch)) {
      continue;
    }
    batch.decode_tokens += tasks[task].decoding ? 1 : 0;
    ready[task]->client->served =
        tasks[task].decoding ? ready[task]->client->served : batch.planned;
  }
  return batch;
}

void Engine::Impl::TakeCalls(SteadyTime now) {
  std::vector<std::unique_ptr<ActiveRequest>> calls;
  {
    MutexLock lock(mutex_);
    calls.swap(inbox_);
    dismissed_ = dismissal_;
    if (now >= next_expiry_) {
      for (const auto& session : sessions_.TakeExpired(now)) {
        End(session);
      }
      next_expiry_ = sessions_.NextExpiry();
    }
    for (auto& session : ended_sessions_) {
      session->closing = true;
      closing_.push_back(std::move(session));
    }
    ended_sessions_.clear();
  }
  for (auto& call : calls) {
    const auto [entry, is_new] = clients_.try_emplace(call->asked.client);
    if (is_new) {
      entry->second.id = ++clients_seen_;
    }
    ++entry->second.requests;
    call->client = &entry->second;
    requests_.push_back(std::move(call));
  }
}

// States that have come to their places; and the places that went, where host memory was refused.
void Engine::Impl::TakePlaces() {
  tiers_->Poll();
  const int lost = places_ - tiers_->places();
  if (lost == 0) {
    return;
  }
  places_ -= lost;
  {
    MutexLock lock(mutex_);
    unclaimed_places_ -= lost;
  }
  if (observer_.on_host_memory_refused) {
    observer_.on_host_memory_refused(tiers_->host_slots());
  }
}

bool Engine::Impl::CanGoOn(const ActiveRequest& request) const {
  const Session& session = *request.session;
  if (session.holder != &request || session.closing || session.moving ||
      session.quarantined.load() || !dismissed_.ok()) {
    return false;
  }
  return request.finished ? request.replaying()
                          : !request.waits && !request.paused_since && !request.ending;
}

bool Engine::Impl::AddRow(ActiveRequest& request, int tokens, Batch* batch) {
  Session& session = *request.session;
  if (!tiers_->Seat(request.session)) {
    return false;
  }
  if (request.NeedsCheckpointSlot()) {
    request.checkpoint_slot = pool_->AcquireCheckpoint();
    if (!request.checkpoint_slot) {
      return false;  // another request of this step took the last one
    }
  }
  if (request.NeedsCheckpoint(tokens)) {
    TakeCheckpoint(request);
  }
  BatchRow row{&request};
  batch->rows.push_back({session.slot->index, static_cast<int32_t>(batch->tokens.size()),
                         static_cast<int32_t>(tokens), session.in_state});
  if (request.Feed(tokens, &batch->tokens)) {
    row.logit = static_cast<int>(batch->logit_tokens.size());
    batch->logit_tokens.push_back(static_cast<int32_t>(batch->tokens.size()) - 1);
    batch->sampling.push_back(request.Sampling(row.logit));
  }
  batch->requests.push_back(row);
  ++request.in_flight;
  request.last_step = step_ + 1;
  if (request.started == SteadyTime{}) {
    request.started = std::max(batch->planned, request.arrived);
  }
  return true;
}

bool Engine::Impl::Launch(Batch batch) {
  if (batch.rows.empty()) {
    return false;
  }
  ++step_;
  StepInput input;
  input.rows = batch.rows.data();
  input.row_count = static_cast<int>(batch.rows.size());
  input.tokens = batch.tokens.data();
  input.token_count = static_cast<int>(batch.tokens.size());
  input.logit_tokens = batch.logit_tokens.data();
  input.sampling = batch.sampling.data();
  input.logit_count = static_cast<int>(batch.logit_tokens.size());
  backend_.BeginStep(input);
  forwarder_->Forward(pool_->slots());
  if (input.logit_count > 0) {
    backend_.Sample({forwarder_->logits(), forwarder_->info().vocab_size});
  }
  batch.ticket = backend_.Launch();
  in_flight_.push_back(std::move(batch));
  return true;
}

std::optional<Engine::Impl::Batch> Engine::Impl::Collect(bool launched) {
  const auto depth = static_cast<size_t>(launched ? backend_.pipeline_depth() : 0);
  if (in_flight_.size() <= depth) {
    return std::nullopt;
  }
  Batch batch = std::move(in_flight_.front());
  in_flight_.pop_front();
  batch.output = &backend_.Collect(batch.ticket);
  if (const std::string error = backend_.error(); !error.empty()) {
    FailRunning(error);
    return std::nullopt;
  }
  return batch;
}

void Engine::Impl::Deliver(const std::optional<Batch>& batch) {
  if (!batch) {
    return;
  }
  const SteadyTime step_end = std::chrono::steady_clock::now();
  for (size_t row = 0; row < batch->requests.size(); ++row) {
    const BatchRow& planned = batch->requests[row];
    ActiveRequest& request = *planned.request;
    --request.in_flight;
    // A step that was launched before a request's end was known may draw a token too many.
    const bool over = request.finished || request.ending;
    if (!DeliverHealth(*batch, row)) {
      Quarantine(request, "the session's memory has gone bad (non-finite values)");
    } else if (planned.logit >= 0 && !over) {
      DeliverToken(request, batch->output->sampled[static_cast<size_t>(planned.logit)], step_end);
    }
    request.session->position.store(request.session->history.position());
  }
  const SteadyTime begun = std::max(batch->planned, step_end_);
  step_end_ = std::chrono::steady_clock::now();
  if (observer_.on_step) {
    EngineObserver::Step step;
    const std::chrono::duration<double> seconds = step_end_ - begun;
    step.seconds = seconds.count();
    step.rows = static_cast<int>(batch->rows.size());
    step.decode_tokens = batch->decode_tokens;
    step.prompt_tokens = static_cast<int>(batch->tokens.size()) - batch->decode_tokens;
    observer_.on_step(step);
  }
}

bool Engine::Impl::DeliverHealth(const Batch& batch, size_t row) {
  const auto layers = static_cast<size_t>(batch.output->memory_layers);
  bool finite = true;
  for (size_t layer = 0; layer < layers; ++layer) {
    const StateHealth& health = batch.output->health[row * layers + layer];
    if (!health.committed) {
      continue;
    }
    finite = finite && health.non_finite == 0;
    if (observer_.on_state_health) {
      observer_.on_state_health(static_cast<int>(layer), health);
    }
  }
  return finite;
}

bool Engine::Impl::Complete() {
  std::vector<Ended> ended;
  ended.swap(ended_);
  for (auto& request : requests_) {
    const bool over = request->finished && request->in_flight == 0 && !CanGoOn(*request);
    if (over) {
      Forget(*request);
      request.reset();
    }
  }
  const size_t before = requests_.size();
  requests_.erase(std::remove(requests_.begin(), requests_.end(), nullptr), requests_.end());
  const bool forgot = requests_.size() != before;
  const bool closed = CloseSessions();
  {
    MutexLock lock(mutex_);
    UpdateGauges();
    for (const Ended& one : ended) {
      one.session->requested = false;
      --unfinished_;
      if (one.session->claims_place && !one.session->has_state()) {
        one.session->claims_place = false;
        ++unclaimed_places_;
      }
    }
    if (unfinished_ == 0) {
      all_finished_.NotifyAll();
    }
  }
  for (Ended& one : ended) {
    one.outbox->Finish(std::move(one.event));
  }
  return forgot || closed || !ended.empty();
}

void Engine::Impl::UpdateGauges() {
  gauges_.running = static_cast<int>(std::count_if(
      requests_.begin(), requests_.end(), [](const std::unique_ptr<ActiveRequest>& request) {
        return !request->finished && request->session->slot &&
               request->session->holder == request.get();
      }));
  gauges_.slots_used = pool_->used();
  gauges_.host_slots_used = tiers_->host_slots_used();
  gauges_.moved_out = tiers_->moved_out();
  gauges_.moved_in = tiers_->moved_in();
  gauges_.host_slots_total = tiers_->host_slots();
}

bool Engine::Impl::CloseSessions() {
  const auto done = std::partition(
      closing_.begin(), closing_.end(), [this](const std::shared_ptr<Session>& session) {
        return session->moving || std::any_of(requests_.begin(), requests_.end(),
                                              [&](const std::unique_ptr<ActiveRequest>& r) {
                                                return r->session == session;
                                              });
      });
  const bool any = done != closing_.end();
  for (auto it = done; it != closing_.end(); ++it) {
    tiers_->Release(**it);
  }
  closing_.erase(done, closing_.end());
  return any;
}

void Engine::Impl::FailRunning(const std::string& why) {
  // How far the steps came is unknown: so are the states of all that they may have touched.
  for (const Batch& batch : in_flight_) {
    backend_.Collect(batch.ticket);
  }
  in_flight_.clear();
  for (const auto& request : requests_) {
    request->in_flight = 0;
    request->waits = false;
    if (request->session->holder == request.get() && request->session->slot) {
      Quarantine(*request, absl::StrCat(why, "; the session's memory is lost"));
    }
  }
  Complete();
}

SteadyTime Engine::Impl::NextTimer() const {
  // A move takes milliseconds.
  constexpr std::chrono::microseconds kPoll{100};
  SteadyTime next = tiers_->busy() ? std::chrono::steady_clock::now() + kPoll : SteadyTime::max();
  for (const auto& request : requests_) {
    if (request->asked.deadline) {
      next = std::min(next, *request->asked.deadline);
    }
    if (request->paused_since) {
      next = std::min(next, *request->paused_since + options.slow_reader_limit);
    }
  }
  MutexLock lock(mutex_);
  return std::min(next, next_expiry_);
}

}  // namespace evenflow
