// The engine thread: what one request goes through besides its steps.
#include <algorithm>
#include <string>
#include <utility>

#include "engine/engine_impl.h"

#include "absl/strings/str_cat.h"

namespace evenflow {

void Engine::Impl::Attend(ActiveRequest& request, SteadyTime now) {
  if (request.finished) {
    return;
  }
  const Outbox::Wishes wishes = request.outbox->Read();
  absl::Status status = Dismissal(request, wishes, now);
  request.waits = request.in_flight > 0 && !(status.ok() && GoesAhead(request, wishes));
  if (request.in_flight > 0) {
    return;
  }
  if (!status.ok()) {
    Finish(request, std::move(status), FinishReason::kRead);
    return;
  }
  if (request.session->holder != &request) {
    return;  // the session's last request is still being taken back
  }
  if (wishes.stop) {
    GoBack(request, *wishes.stop);
    return;
  }
  request.interrupted = request.interrupted || (wishes.interrupted && request.asked.generate);
  if (!request.ending && !request.reading()) {
    if (!request.asked.generate) {
      request.ending = FinishReason::kRead;
    } else if (request.interrupted) {
      request.ending = FinishReason::kInterrupted;
    }
  }
  if (request.ending &&
      (!request.asked.has_stop_strings || wishes.checked >= request.generated())) {
    request.EndReading();
    Finish(request, absl::OkStatus(), *request.ending);
    return;
  }
  PauseOrGo(request, wishes, now);
}

absl::Status Engine::Impl::Dismissal(const ActiveRequest& request, const Outbox::Wishes& wishes,
                                     SteadyTime now) const {
  if (wishes.cancelled) {
    return wishes.cancelled->ok() ? absl::CancelledError("the request was cancelled")
                                  : *wishes.cancelled;
  }
  if (!dismissed_.ok()) {
    return dismissed_;
  }
  if (request.session->closing) {
    return absl::CancelledError("the session was ended");
  }
  if (request.asked.deadline && now >= *request.asked.deadline) {
    return absl::DeadlineExceededError("the deadline passed before the request ended");
  }
  return absl::OkStatus();
}

// Whether the tokens under way change nothing about what comes next but its input. Otherwise they
// are delivered first.
bool Engine::Impl::GoesAhead(const ActiveRequest& request, const Outbox::Wishes& wishes) const {
  if (wishes.stop || (wishes.interrupted && !request.interrupted) || request.ending) {
    return false;
  }
  if (request.reading()) {
    return true;
  }
  const bool can_take_back = !request.has_stop_tokens() || window_.rollback > 0;
  return request.asked.generate && !request.interrupted && can_take_back &&
         request.generated() + request.awaited() < request.asked.max_tokens &&
         ReaderKeepsUp(request, wishes);
}

// Whether the reader has read and checked enough for one more token to be drawn.
bool Engine::Impl::ReaderKeepsUp(const ActiveRequest& request, const Outbox::Wishes& wishes) const {
  const int64_t unread = wishes.unread + request.awaited();
  const int64_t unchecked =
      request.asked.has_stop_strings ? request.generated() + request.awaited() - wishes.checked : 0;
  const int64_t may_lead =
      request.RefreshDue() || request.ending ? 1 : std::max(1, window_.rollback);
  return unread < options.outbox_tokens && unchecked < may_lead;
}

// A request waits when its reader is too slow, or its text was not compared with the stop strings.
void Engine::Impl::PauseOrGo(ActiveRequest& request, const Outbox::Wishes& wishes, SteadyTime now) {
  if (request.RefreshDue() && wishes.confirmed >= request.generated()) {
    TakeCheckpoint(request);
  }
  // Of more, the client itself is slow.
  constexpr int64_t kMostBehind = 16;
  readers_behind_ = readers_behind_ || (wishes.unread > 1 && wishes.unread <= kMostBehind &&
                                        wishes.unread < options.outbox_tokens);
  if (ReaderKeepsUp(request, wishes)) {
    request.paused_since.reset();
    return;
  }
  if (!request.paused_since) {
    request.paused_since = now;
  }
  if (now - *request.paused_since >= options.slow_reader_limit) {
    Finish(request,
           absl::ResourceExhaustedError(absl::StrCat(
               "the client did not read its stream for ", options.slow_reader_limit.count(),
               " ms: ", wishes.unread, " tokens wait, at most ", options.outbox_tokens, " may")),
           FinishReason::kRead);
  }
}

void Engine::Impl::TakeCheckpoint(ActiveRequest& request) {
  pool_->Copy(*request.checkpoint_slot, *request.session->slot);
  request.SetCheckpoint();
}

void Engine::Impl::GoBack(ActiveRequest& request, const StopRequest& stop) {
  const absl::StatusOr<bool> copy_back = request.Rewind(stop, forwarder_->info().vocab_size);
  if (!copy_back.ok()) {
    Quarantine(request, std::string(copy_back.status().message()));
    return;
  }
  if (*copy_back) {
    pool_->Copy(*request.session->slot, *request.checkpoint_slot);
  }
  Finish(request, absl::OkStatus(), FinishReason::kStopString);
}

void Engine::Impl::DeliverToken(ActiveRequest& request, const SampledToken& sampled,
                                SteadyTime step_end) {
  if (sampled.token < 0) {
    Quarantine(request, "the model's output has gone bad (non-finite logits)");
    return;
  }
  request.Append(sampled.token);
  Session& session = *request.session;
  session.position.store(session.history.position());
  request.last_token = step_end;
  if (request.generated() == 1) {
    request.first_token = step_end;
  }
  request.outbox->Push({sampled, session.history.position(), step_end});
  if (request.StopsAt(sampled.token)) {
    request.stop_token = sampled.token;
    request.ending = FinishReason::kStopToken;
    request.TakeBack();
  } else if (request.generated() >= request.asked.max_tokens) {
    request.ending = FinishReason::kLength;
  }
  if (request.ending && !request.asked.has_stop_strings) {
    Finish(request, absl::OkStatus(), *request.ending);
  }
}

void Engine::Impl::Finish(ActiveRequest& request, absl::Status status, FinishReason reason) {
  Session& session = *request.session;
  session.position.store(session.history.position());
  request.finished = true;
  ended_.push_back({request.outbox, request.session, request.Event(std::move(status), reason)});
}

void Engine::Impl::Quarantine(ActiveRequest& request, const std::string& why) {
  request.session->quarantined.store(true);
  if (!request.finished) {
    Finish(request, absl::InternalError(why), FinishReason::kRead);
  }
}

void Engine::Impl::Forget(const ActiveRequest& request) {
  if (request.checkpoint_slot) {
    pool_->Release(*request.checkpoint_slot);
  }
  if (request.session->holder == &request) {
    request.session->holder = nullptr;
    tiers_->SetIdle(request.session);
  }
  if (--request.client->requests == 0) {
    clients_.erase(request.asked.client);
  }
}

}  // namespace evenflow
