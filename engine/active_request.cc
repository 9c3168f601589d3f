#include "engine/active_request.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

// Generated tokens between two checkpoints: a copy of the state costs about as much as a step.
constexpr int64_t kCheckpointTokens = 64;

std::vector<int32_t> Ascending(std::vector<int32_t> tokens) {
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

}  // namespace

ActiveRequest::ActiveRequest(EngineRequest request, std::shared_ptr<Session> owner,
                             std::shared_ptr<Outbox> answers)
    : asked(std::move(request)),
      session(std::move(owner)),
      outbox(std::move(answers)),
      base_(session->position.load()),
      prompt_end_(base_ + static_cast<int64_t>(asked.prompt.size())),
      stop_tokens_(Ascending(asked.stop_tokens)) {}

int64_t ActiveRequest::InputEnd() const {
  // The newest token stays pending unless a sample is wanted after it.
  return asked.generate && !interrupted ? prompt_end_ : prompt_end_ - 1;
}

bool ActiveRequest::reading() const {
  return !replay_end_ && session->in_state < InputEnd();
}

ActiveRequest::~ActiveRequest() {
  Wipe(asked.prompt);
}

Task ActiveRequest::NextTask() const {
  Task task;
  task.position = session->in_state;
  if (replay_end_) {
    task.end = std::min(prompt_end_, *replay_end_);
    task.decoding = task.position >= prompt_end_;
  } else {
    task.end = InputEnd();
    task.decoding = !reading();
  }
  task.needs_slot = !session->slot;
  task.priority = asked.priority;
  task.arrived = arrived;
  task.last_step = last_step;
  task.client = client->id;
  task.client_served = client->served;
  return task;
}

int32_t ActiveRequest::TokenAt(int64_t position) const {
  if (replay_end_) {
    return checkpoint->tokens[static_cast<size_t>(position - checkpoint->position)];
  }
  if (position >= base_ && position < prompt_end_) {
    return asked.prompt[static_cast<size_t>(position - base_)];
  }
  return position < session->history.position() ? session->history.newest() : DrawnAt(sample_);
}

int64_t ActiveRequest::awaited() const {
  return std::max<int64_t>(
      0, session->in_state + 1 - std::max(prompt_end_, session->history.position()));
}

bool ActiveRequest::Feed(int count, WipedVector<int32_t>* ids) {
  const int64_t begin = session->in_state;
  for (int64_t position = begin; position < begin + count; ++position) {
    ids->push_back(TokenAt(position));
  }
  session->in_state += count;
  if (replay_end_) {
    return false;
  }
  while (session->history.position() < std::min(session->in_state + 1, prompt_end_)) {
    session->history.Append(TokenAt(session->history.position()));
  }
  return asked.generate && session->in_state >= prompt_end_;
}

SamplingRow ActiveRequest::Sampling(int sample) {
  sample_ = sample;
  SamplingRow row;
  row.params = &asked.sampling;
  row.position = session->in_state;
  row.history = session->history.ring();
  row.history_capacity = session->history.capacity();
  row.newest_drawn = session->history.position() < row.position;
  if (row.position - prompt_end_ < asked.min_tokens) {
    row.banned = stop_tokens_.data();
    row.banned_count = static_cast<int32_t>(stop_tokens_.size());
  }
  return row;
}

void ActiveRequest::Append(int32_t token) {
  session->history.Append(token);
  if (checkpoint) {
    checkpoint->tokens.push_back(token);
  }
  ++generated_;
}

void ActiveRequest::TakeBack() {
  session->in_state = std::min(session->in_state, session->history.position() - 1);
}

bool ActiveRequest::StopsAt(int32_t token) const {
  return std::binary_search(stop_tokens_.begin(), stop_tokens_.end(), token);
}

void ActiveRequest::EndReading() {
  while (session->history.position() < prompt_end_) {
    session->history.Append(TokenAt(session->history.position()));
  }
}

FinishEvent ActiveRequest::Event(absl::Status status, FinishReason reason) const {
  const SteadyTime now = std::chrono::steady_clock::now();
  const auto or_now = [now](SteadyTime time) { return time == SteadyTime{} ? now : time; };
  FinishEvent event;
  event.status = std::move(status);
  event.reason = reason;
  event.stop_token = stop_token;
  event.position = session->history.position();
  event.prompt_tokens = std::min(event.position, prompt_end_) - base_;
  event.generated_tokens = generated_;
  event.seed = asked.sampling.seed;
  event.arrived = arrived;
  event.started = or_now(started);
  event.first_token = or_now(first_token);
  event.last_token = or_now(last_token);
  return event;
}

bool ActiveRequest::NeedsCheckpointSlot() const {
  return asked.has_stop_strings && asked.generate && !interrupted && !checkpoint_slot;
}

bool ActiveRequest::NeedsCheckpoint(int count) const {
  return asked.has_stop_strings && asked.generate && !interrupted && !checkpoint &&
         session->in_state + count == prompt_end_;
}

bool ActiveRequest::RefreshDue() const {
  return checkpoint && session->history.position() - std::max(prompt_end_, checkpoint->position) >=
                           kCheckpointTokens;
}

void ActiveRequest::SetCheckpoint() {
  Checkpoint next{session->in_state, session->history, {}};
  for (int64_t position = next.position;
       position < std::max(prompt_end_, session->history.position()); ++position) {
    next.tokens.push_back(TokenAt(position));
  }
  checkpoint = std::move(next);
}

absl::StatusOr<bool> ActiveRequest::Rewind(const StopRequest& stop, int vocab_size) {
  if (stop.kept == generated_ && stop.tail.empty()) {
    replay_end_ = session->in_state;
    return false;
  }
  const int64_t kept_end = prompt_end_ + stop.kept;
  const int64_t end = kept_end + static_cast<int64_t>(stop.tail.size());
  if (!checkpoint || stop.kept < 0 || stop.kept > generated_ || kept_end < checkpoint->position ||
      end <= checkpoint->position) {
    return absl::InternalError(absl::StrCat("the stop string begins after ", stop.kept, " of ",
                                            generated_,
                                            " generated tokens, which were confirmed before"));
  }
  for (const int32_t token : stop.tail) {
    if (token < 0 || token >= vocab_size) {
      return absl::InternalError(
          absl::StrCat("the text before the stop string became token ", token));
    }
  }
  WipedVector<int32_t>& tokens = checkpoint->tokens;
  tokens.resize(static_cast<size_t>(kept_end - checkpoint->position));
  tokens.insert(tokens.end(), stop.tail.begin(), stop.tail.end());
  replay_end_ = end - 1;
  session->history = checkpoint->history;
  while (session->history.position() < end) {
    session->history.Append(TokenAt(session->history.position()));
  }
  generated_ = end - prompt_end_;
  if (session->in_state <= std::min(kept_end, *replay_end_)) {
    return false;  // the state has nothing that must go
  }
  session->in_state = checkpoint->position;
  return true;
}

}  // namespace evenflow
