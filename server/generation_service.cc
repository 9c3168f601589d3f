#include "server/generation_service.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <utility>

#include "server/call.h"
#include "server/request_log.h"
#include "server/stream_call.h"

namespace evenflow {

std::optional<SteadyTime> DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) {
    return std::nullopt;
  }
  const auto left = deadline - std::chrono::system_clock::now();
  // Beyond a year it is none, and adding it could overflow.
  if (left > std::chrono::hours(24 * 365)) {
    return std::nullopt;
  }
  return std::chrono::steady_clock::now() + left;
}

std::string ClientOf(const grpc::CallbackServerContext& context) {
  const std::string peer = context.peer();
  return peer.substr(0, peer.rfind(':'));
}

namespace {

class GenerateCall final : public Call<grpc::ServerWriteReactor<v1::GenerateResponse>> {
 public:
  GenerateCall(const Serving& serving, grpc::CallbackServerContext* context,
               const v1::GenerateRequest* request)
      : Call(serving, context),
        request_(*request),
        request_id_(request->request_id().empty() ? RandomName(64) : request->request_id()),
        arrived_(std::chrono::steady_clock::now()) {}

  void Start() {
    status_ = Check();
    if (status_.ok() && request_.prompt().text().size() > kInlineTextBytes) {
      serving().tokenizing->Add([this, self = shared_from_this()] { ReadPrompt(); });
    } else {
      ReadPrompt();
    }
  }

 private:
  absl::Status Check() {
    const Serving& with = serving();
    absl::Status status = with.CheckModel(request_.model());
    status.Update(CheckRequestId(request_.request_id()));
    status.Update(
        CheckPriority(request_.has_priority() ? std::optional(request_.priority()) : std::nullopt));
    const auto expected = request_.has_expected_position()
                              ? std::optional(request_.expected_position())
                              : std::nullopt;
    status.Update(CheckExpectedPosition(expected));
    status.Update(
        ReadOptions(with, "options", &request_.options(), &engine_request_, &text_options_));
    if (!status.ok()) {
      return status;
    }
    engine_request_.priority = request_.priority();
    engine_request_.expected_position = expected;
    absl::StatusOr<SessionLease> lease = with.engine->Attach(request_.session_id());
    if (!lease.ok()) {
      return lease.status();
    }
    lease_ = *std::move(lease);
    return absl::OkStatus();
  }

  void ReadPrompt() {
    if (status_.ok()) {
      absl::StatusOr<std::vector<int32_t>> prompt =
          ReadInput(serving(), "prompt", request_.prompt(), lease_.position());
      status_ = prompt.status();
      if (prompt.ok() && prompt->empty() && lease_.position() == 0) {
        status_ = BadField("prompt", "empty",
                           "text or token_ids; empty only with a session_id "
                           "whose session is at a position > 0");
      } else if (prompt.ok()) {
        engine_request_.prompt = *std::move(prompt);
      }
    }
    prepared_.store(true);
    PokeHere();
  }

  void Step() override {
    if (finished_ || !prepared_.load()) {
      return;
    }
    if (tokens() == nullptr) {
      if (status_.ok()) {
        status_ = Submit(lease_, std::move(engine_request_), std::move(text_options_), arrived_);
      }
      if (!status_.ok()) {
        serving().metrics->CountEnd(status_);
        return Fail(status_);
      }
    }
    if (cancelled()) {
      tokens()->outbox().Cancel(CancelStatus());
    }
    if (writing()) {
      if (const absl::Status failure = tokens()->outbox().Failure(); !failure.ok()) {
        serving().metrics->CountEnd(failure);
        Fail(failure);
      }
      return;
    }
    Send();
  }

  void Send() {
    message_.Clear();
    message_.set_request_id(request_id_);
    message_.set_session_id(lease_.session_id());
    switch (tokens()->Next(&message_)) {
      case TokenStream::Result::kNothing:
        return;
      case TokenStream::Result::kPiece:
        BeginWrite();
        StartWrite(&message_);
        return;
      case TokenStream::Result::kLast:
        finished_ = true;
        LogEnd(request_id_, message_.finish());
        // The client may go on with the session as soon as it has read this message.
        lease_ = SessionLease();
        StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
        return;
      case TokenStream::Result::kFailed:
        return Fail(tokens()->status());
    }
  }

  void Fail(const absl::Status& status) {
    finished_ = true;
    LogEnd(request_id_, status);
    lease_ = SessionLease();
    Finish(ToGrpc(status));
  }

  const v1::GenerateRequest& request_;  // lives until OnDone
  const std::string request_id_;
  const SteadyTime arrived_;
  SessionLease lease_;
  EngineRequest engine_request_;
  TextOptions text_options_;
  absl::Status status_;
  std::atomic<bool> prepared_{false};  // what Step needs is there
  bool finished_ = false;
  v1::GenerateResponse message_;
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  const auto call = std::make_shared<GenerateCall>(serving_, context, request);
  call->Hold();
  call->Start();
  return call.get();
}

grpc::ServerBidiReactor<v1::StreamRequest, v1::StreamResponse>* GenerationService::Stream(
    grpc::CallbackServerContext* context) {
  const auto call = std::make_shared<StreamCall>(serving_, context, &streams_);
  call->Hold();
  call->Start();
  return call.get();
}

}  // namespace evenflow
