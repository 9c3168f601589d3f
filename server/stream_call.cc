#include "server/stream_call.h"

#include <chrono>
#include <utility>

#include "server/request_log.h"

#include "absl/strings/str_cat.h"

namespace evenflow {

StreamCall::StreamCall(const Serving& serving, grpc::CallbackServerContext* context,
                       LiveCalls* live)
    : Call(serving, context), live_(live) {}

void StreamCall::Start() {
  live_->Add(shared_from_this());
  ReadOn();
}

void StreamCall::OnReadDone(bool ok) {
  read_.store(ok ? Read::kArrived : Read::kEnded);
  PokeHere();
}

void StreamCall::OnDone() {
  live_->Remove(this);
  Call::OnDone();
}

void StreamCall::Step() {
  if (finished_) {
    return;
  }
  TakeRead();
  if (cancelled()) {
    Fail(CancelStatus());
  }
  if (current_.has_value() && tokens() == nullptr && !preparing_.load()) {
    SubmitAppend();
  }
  if (tokens() != nullptr) {
    Send();
  }
  if (finished_ || current_.has_value()) {
    return;
  }
  if (serving().draining.load()) {
    Fail(absl::UnavailableError("the server is shutting down"));
  }
  if (!failure_.ok()) {
    End(failure_);
  } else if (!waiting_.empty()) {
    Next();
  } else if (read_.load() == Read::kEnded && !writing()) {
    End(absl::OkStatus());
  }
}

void StreamCall::TakeRead() {
  if (read_.load() == Read::kEnded && !configured_) {
    Fail(absl::InvalidArgumentError("the stream ended before its first message, config"));
  }
  if (read_.load() != Read::kArrived) {
    return;
  }
  read_.store(Read::kNone);
  if (!configured_) {
    if (!incoming_.has_config()) {
      return Fail(BadField("message", "no config", "config, as the first message of a stream"));
    }
    if (const absl::Status status = Configure(incoming_.config()); !status.ok()) {
      return Fail(status);
    }
  } else if (!incoming_.has_append()) {
    return Fail(BadField("message", incoming_.has_config() ? "a second config" : "empty",
                         "append, after the first message of a stream"));
  } else {
    Queue(std::move(*incoming_.mutable_append()));
  }
  ReadOn();
}

absl::Status StreamCall::Configure(const v1::StreamConfig& config) {
  configured_ = true;
  absl::Status status = serving().CheckModel(config.model());
  status.Update(CheckRequestId(config.request_id()));
  status.Update(
      CheckPriority(config.has_priority() ? std::optional(config.priority()) : std::nullopt));
  status.Update(CheckExpectedPosition(
      config.has_expected_position() ? std::optional(config.expected_position()) : std::nullopt));
  if (!status.ok()) {
    return status;
  }
  absl::StatusOr<SessionLease> lease = serving().engine->Attach(config.session_id());
  if (!lease.ok()) {
    return lease.status();
  }
  lease_ = *std::move(lease);
  request_id_ = config.request_id().empty() ? RandomName(64) : config.request_id();
  priority_ = config.priority();
  if (config.has_expected_position() && config.expected_position() != lease_.position()) {
    return absl::FailedPreconditionError(
        absl::StrCat("expected_position is ", config.expected_position(),
                     "; the session is at position ", lease_.position()));
  }
  return absl::OkStatus();
}

void StreamCall::Queue(v1::Append append) {
  if (append.interrupt()) {
    for (Waiting& earlier : waiting_) {
      earlier.interrupted = true;
    }
    if (current_.has_value()) {
      current_->interrupted = true;
      if (tokens() != nullptr && current_->append.has_generate()) {
        tokens()->outbox().Interrupt();
      }
    }
  }
  waiting_bytes_ += append.ByteSizeLong();
  waiting_.push_back(
      {std::move(append), appends_++, std::chrono::steady_clock::now(), /*interrupted=*/false});
}

void StreamCall::ReadOn() {
  if (read_.load() == Read::kNone && waiting_.size() < kMaxWaitingAppends &&
      waiting_bytes_ < kMaxWaitingBytes) {
    read_.store(Read::kInFlight);
    StartRead(&incoming_);
  }
}

void StreamCall::Next() {
  current_ = std::move(waiting_.front());
  waiting_.pop_front();
  waiting_bytes_ -= current_->append.ByteSizeLong();
  ReadOn();
  engine_request_ = EngineRequest();
  text_options_ = TextOptions();
  const v1::Append& append = current_->append;
  prepared_ = ReadOptions(serving(), "append.generate",
                          append.has_generate() ? &append.generate() : nullptr, &engine_request_,
                          &text_options_);
  preparing_.store(true);
  if (prepared_.ok() && append.input().text().size() > kInlineTextBytes) {
    serving().tokenizing->Add([this, self = shared_from_this()] { ReadAppend(); });
  } else {
    ReadAppend();
  }
}

void StreamCall::ReadAppend() {
  if (prepared_.ok()) {
    absl::StatusOr<std::vector<int32_t>> prompt =
        ReadInput(serving(), "append.input", current_->append.input(), lease_.position());
    prepared_ = prompt.status();
    if (prompt.ok() && prompt->empty() && lease_.position() == 0) {
      prepared_ = BadField("append.input", "empty",
                           "text or token_ids; empty only when the session is at a position > 0");
    } else if (prompt.ok()) {
      engine_request_.prompt = *std::move(prompt);
    }
  }
  preparing_.store(false);
  PokeHere();
}

void StreamCall::SubmitAppend() {
  absl::Status status = failure_;
  status.Update(prepared_);
  if (status.ok()) {
    engine_request_.priority = priority_;
    engine_request_.generate = engine_request_.generate && !current_->interrupted;
    status =
        Submit(lease_, std::move(engine_request_), std::move(text_options_), current_->arrived);
  }
  if (!status.ok()) {
    serving().metrics->CountEnd(status);
    current_.reset();
    Fail(status);
  }
}

void StreamCall::Send() {
  if (writing()) {
    if (const absl::Status failure = tokens()->outbox().Failure(); !failure.ok()) {
      serving().metrics->CountEnd(failure);
      End(failure);
    }
    return;
  }
  message_.Clear();
  message_.set_append_index(current_->index);
  v1::GenerateResponse* response = message_.mutable_response();
  response->set_request_id(request_id_);
  response->set_session_id(lease_.session_id());
  const TokenStream::Result result = tokens()->Next(response);
  switch (result) {
    case TokenStream::Result::kNothing:
      return;
    case TokenStream::Result::kFailed:
      return End(tokens()->status());
    case TokenStream::Result::kLast:
      if (current_->interrupted && current_->append.has_generate() &&
          response->finish().reason() == v1::FINISH_REASON_READ) {
        response->mutable_finish()->set_reason(v1::FINISH_REASON_INTERRUPTED);
      }
      LogEnd(request_id_, response->finish());
      DropTokens();
      current_.reset();
      break;
    case TokenStream::Result::kPiece:
      break;
  }
  BeginWrite();
  StartWrite(&message_);
}

void StreamCall::Fail(const absl::Status& status) {
  if (failure_.ok()) {
    failure_ = status;
    if (tokens() != nullptr) {
      tokens()->outbox().Cancel(status);
    }
  }
}

void StreamCall::End(absl::Status status) {
  finished_ = true;
  DropTokens();
  lease_ = SessionLease();
  status = failure_.ok() ? status : failure_;
  LogEnd(request_id_, status);
  Finish(ToGrpc(status));
}

}  // namespace evenflow
