#include "server/sessions_service.h"

#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "server/request.h"
#include "server/status.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace evenflow {

namespace {

constexpr int kDefaultPage = 100;
constexpr int kMaxPage = 1000;

grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

void SetTime(absl::Time time, google::protobuf::Timestamp* to) {
  const int64_t seconds = absl::ToUnixSeconds(time);
  to->set_seconds(seconds);
  to->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

void Fill(const SessionInfo& info, const std::string& model, v1::Session* to) {
  to->set_session_id(info.id);
  to->set_model(model);
  to->set_position(info.position);
  to->set_busy(info.busy);
  SetTime(info.created, to->mutable_created());
  SetTime(info.expires, to->mutable_expires());
  to->set_state_bytes(info.state_bytes);
  to->set_quarantined(info.quarantined);
  to->set_on_host(info.on_host);
}

absl::StatusOr<std::optional<std::chrono::milliseconds>> IdleTimeout(
    const Serving& serving, const v1::CreateSessionRequest& request) {
  if (!request.has_idle_timeout()) {
    return std::nullopt;
  }
  const google::protobuf::Duration& given = request.idle_timeout();
  const absl::Duration timeout = absl::Seconds(given.seconds()) + absl::Nanoseconds(given.nanos());
  const absl::Duration most = absl::FromChrono(serving.engine->options().max_idle_timeout);
  if (timeout < absl::Seconds(1) || timeout > most) {
    return BadField("idle_timeout", absl::FormatDuration(timeout),
                    absl::StrCat("1s to ", absl::FormatDuration(most)));
  }
  return std::chrono::milliseconds(absl::ToInt64Milliseconds(timeout));
}

absl::Status CheckName(const std::string& id) {
  if (id.empty()) {
    return BadField("session_id", "empty", "the id of a session");
  }
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* SessionsService::Create(grpc::CallbackServerContext* context,
                                                  const v1::CreateSessionRequest* request,
                                                  v1::Session* response) {
  if (absl::Status status = serving_.CheckModel(request->model()); !status.ok()) {
    return Reply(context, status);
  }
  const auto timeout = IdleTimeout(serving_, *request);
  if (!timeout.ok()) {
    return Reply(context, timeout.status());
  }
  const absl::StatusOr<SessionInfo> info =
      serving_.engine->CreateSession(request->session_id(), *timeout);
  if (info.ok()) {
    Fill(*info, serving_.model_name, response);
  }
  return Reply(context, info.status());
}

grpc::ServerUnaryReactor* SessionsService::Get(grpc::CallbackServerContext* context,
                                               const v1::GetSessionRequest* request,
                                               v1::Session* response) {
  if (absl::Status status = CheckName(request->session_id()); !status.ok()) {
    return Reply(context, status);
  }
  const absl::StatusOr<SessionInfo> info = serving_.engine->GetSession(request->session_id());
  if (info.ok()) {
    Fill(*info, serving_.model_name, response);
  }
  return Reply(context, info.status());
}

grpc::ServerUnaryReactor* SessionsService::List(grpc::CallbackServerContext* context,
                                                const v1::ListSessionsRequest* request,
                                                v1::ListSessionsResponse* response) {
  if (!serving_.allow_session_listing) {
    return Reply(context,
                 absl::PermissionDeniedError("listing sessions is off; start the server with "
                                             "--allow-session-listing to allow it"));
  }
  if (request->page_size() < 0 || request->page_size() > kMaxPage) {
    return Reply(context, BadField("page_size", absl::StrCat(request->page_size()),
                                   absl::StrCat("0 to ", kMaxPage)));
  }
  const int page = request->page_size() == 0 ? kDefaultPage : request->page_size();
  // One more than asked for tells whether there is a next page.
  std::vector<SessionInfo> sessions =
      serving_.engine->ListSessions(request->page_token(), page + 1);
  if (static_cast<int>(sessions.size()) > page) {
    sessions.resize(static_cast<size_t>(page));
    response->set_next_page_token(sessions.back().id);
  }
  for (const SessionInfo& info : sessions) {
    Fill(info, serving_.model_name, response->add_sessions());
  }
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* SessionsService::Delete(grpc::CallbackServerContext* context,
                                                  const v1::DeleteSessionRequest* request,
                                                  v1::DeleteSessionResponse*) {
  absl::Status status = CheckName(request->session_id());
  if (status.ok()) {
    status = serving_.engine->DeleteSession(request->session_id());
  }
  return Reply(context, status);
}

}  // namespace evenflow
