#include "server/token_stream.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <string_view>
#include <utility>

#include "server/log.h"

namespace evenflow {

namespace {

double Seconds(SteadyTime from, SteadyTime to) {
  return std::max(0.0, std::chrono::duration<double>(to - from).count());
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStopToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case FinishReason::kStopString:
      return v1::FINISH_REASON_STOP_STRING;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kInterrupted:
      return v1::FINISH_REASON_INTERRUPTED;
    case FinishReason::kRead:
      return v1::FINISH_REASON_READ;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void AddLogprobs(const SampledToken& sampled, v1::GenerateResponse* message) {
  v1::TokenLogprobs* logprobs = message->add_logprobs();
  logprobs->set_logprob(sampled.logprob);
  for (const TokenLogprob& top : sampled.top) {
    v1::TopLogprob* to = logprobs->add_top();
    to->set_token_id(top.token);
    to->set_logprob(top.logprob);
  }
}

}  // namespace

TokenStream::TokenStream(const Context& context, TextOptions options,
                         std::shared_ptr<Outbox> outbox)
    : context_(context), options_(std::move(options)), outbox_(std::move(outbox)) {
  if (context_.tokenizer != nullptr) {
    decoder_.emplace(*context_.tokenizer, /*at_start=*/false, /*skip_special=*/true);
  }
}

TokenStream::~TokenStream() {
  Wipe(text_);
}

TokenStream::Result TokenStream::Next(v1::GenerateResponse* message) {
  if (!status_.ok()) {
    return Result::kFailed;
  }
  std::optional<FinishEvent> finish;
  outbox_->Take(&events_, &finish);
  for (const TokenEvent& event : events_) {
    Observe(event);
    if (!match_.has_value()) {
      Add(event);
    }
  }
  if (match_.has_value()) {
    Release(tail_end_, message);
  } else {
    Release(options_.stop.empty() ? text_.size() : StopStart(), message);
    if (!options_.stop.empty() && !events_.empty()) {
      outbox_->Confirm(taken_, released_);
    }
  }
  if (!finish.has_value()) {
    return message->token_ids().empty() ? Result::kNothing : Result::kPiece;
  }
  if (!finish->status.ok()) {
    // The session keeps these tokens, so the client gets them; the next call tells the status.
    status_ = finish->status;
    context_.metrics->CountEnd(status_);
    if (!match_.has_value()) {
      ReleaseAll(message);
    }
    return message->token_ids().empty() ? Result::kFailed : Result::kPiece;
  }
  Finish(*finish, message);
  return Result::kLast;
}

void TokenStream::Observe(const TokenEvent& event) {
  if (taken_ == 0) {
    context_.metrics->time_to_first_token.Observe(Seconds(context_.arrived, event.step_end));
  } else {
    context_.metrics->inter_token_latency.Observe(Seconds(last_token_, event.step_end));
  }
  context_.metrics->CountGenerated(event);
  last_token_ = event.step_end;
  ++taken_;
}

void TokenStream::Add(const TokenEvent& event) {
  const int32_t token = event.sampled.token;
  const bool stops = std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), token) !=
                     options_.stop_tokens.end();
  const std::string text = decoder_.has_value() && !stops ? decoder_->Push(token) : "";
  if (!text.empty()) {
    for (auto held = held_.rbegin(); held != held_.rend() && held->text_end == kOpen; ++held) {
      held->text_end = text_.size() + text.size();
    }
  }
  const bool open = decoder_.has_value() && decoder_->pending();
  held_.push_back({event.sampled, event.position, open ? kOpen : text_.size() + text.size()});
  const size_t from = text_.size();
  text_ += text;
  if (const std::optional<Match> match = FindStop(from); match.has_value()) {
    Stop(*match);
  }
}

std::optional<TokenStream::Match> TokenStream::FindStop(size_t from) const {
  for (size_t end = from + 1; end <= text_.size(); ++end) {
    std::optional<Match> longest;
    for (size_t i = 0; i < options_.stop.size(); ++i) {
      const std::string& stop = options_.stop[i];
      if (stop.size() <= end && text_.compare(end - stop.size(), stop.size(), stop) == 0 &&
          (!longest.has_value() || end - stop.size() < longest->begin)) {
        longest = Match{end - stop.size(), end, i};
      }
    }
    if (longest.has_value()) {
      return longest;
    }
  }
  return std::nullopt;
}

size_t TokenStream::StopStart() const {
  size_t longest = 0;
  for (const std::string& stop : options_.stop) {
    longest = std::max(longest, stop.size());
  }
  const std::string_view text = text_;
  for (size_t begin = text.size() - std::min(text.size(), longest); begin < text.size(); ++begin) {
    for (const std::string& stop : options_.stop) {
      if (std::string_view(stop).substr(0, text.size() - begin) == text.substr(begin)) {
        return begin;
      }
    }
  }
  return text.size();
}

void TokenStream::Stop(const Match& match) {
  match_ = match;
  tail_end_ = options_.include_stop_text ? match.end : match.begin;
  size_t kept = 0;
  size_t kept_end = 0;
  while (kept < held_.size() && held_[kept].text_end <= tail_end_) {
    kept_end = held_[kept++].text_end;
  }
  held_.resize(kept);
  const std::string_view tail = std::string_view(text_).substr(kept_end, tail_end_ - kept_end);
  if (!tail.empty()) {
    absl::StatusOr<std::vector<int32_t>> encoded =
        context_.tokenizer->Encode(tail, {.add_special = false, .parse_special = false});
    if (encoded.ok()) {
      tail_ = *std::move(encoded);
    } else {
      // At most a few hundred bytes of text that the tokenizer itself wrote; the session goes on
      // without them.
      Log(LogLevel::kError,
          "the text before a stop string cannot be tokenized: ", encoded.status().message());
    }
  }
  outbox_->StopAt({.kept = released_ + static_cast<int64_t>(kept), .tail = tail_});
}

void TokenStream::Release(size_t end, v1::GenerateResponse* message) {
  size_t sent = 0;  // bytes of text_
  while (!held_.empty() && held_.front().text_end <= end) {
    const Held& held = held_.front();
    message->add_token_ids(held.sampled.token);
    message->set_position(held.position);
    if (options_.logprobs) {
      AddLogprobs(held.sampled, message);
    }
    sent = held.text_end;
    held_.pop_front();
    ++released_;
  }
  if (sent == 0) {
    return;
  }
  message->mutable_text()->append(text_, 0, sent);
  text_.erase(0, sent);
  tail_end_ -= std::min(tail_end_, sent);
  for (Held& held : held_) {
    held.text_end -= held.text_end == kOpen ? 0 : sent;
  }
}

void TokenStream::ReleaseAll(v1::GenerateResponse* message) {
  if (decoder_.has_value()) {
    text_ += decoder_->Flush();
  }
  for (Held& held : held_) {
    held.text_end = std::min(held.text_end, text_.size());
  }
  Release(text_.size(), message);
}

void TokenStream::Finish(const FinishEvent& event, v1::GenerateResponse* message) {
  v1::Finish* finish = message->mutable_finish();
  if (match_.has_value()) {
    finish->set_stop_string(options_.stop[match_->stop]);
    for (const int32_t token : tail_) {
      message->add_token_ids(token);
      if (options_.logprobs) {
        message->add_logprobs()->set_logprob(std::numeric_limits<float>::quiet_NaN());
      }
    }
    message->mutable_text()->append(text_, 0, tail_end_);
  } else {
    ReleaseAll(message);
  }
  message->set_position(event.position);
  finish->set_reason(ToProto(event.reason));
  if (event.stop_token.has_value()) {
    finish->set_stop_token_id(*event.stop_token);
  }
  finish->set_seed(event.seed);
  finish->mutable_usage()->set_prompt_tokens(event.prompt_tokens);
  finish->mutable_usage()->set_generated_tokens(event.generated_tokens);
  const SteadyTime end = taken_ > 0 ? last_token_ : std::chrono::steady_clock::now();
  const double queued = Seconds(context_.arrived, event.started);
  const double total = Seconds(context_.arrived, end);
  finish->mutable_timings()->set_queue_seconds(queued);
  finish->mutable_timings()->set_total_seconds(total);
  if (taken_ > 0) {
    finish->mutable_timings()->set_first_token_seconds(
        Seconds(context_.arrived, event.first_token));
  }
  context_.metrics->queue_time.Observe(queued);
  context_.metrics->request_latency.Observe(total);
  context_.metrics->CountEnd(event.reason);
}

}  // namespace evenflow
