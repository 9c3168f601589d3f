#include "clients/cli/session.h"

#include <cstdint>
#include <iostream>
#include <memory>
#include <optional>

#include <google/protobuf/util/json_util.h>

#include "clients/cli/connection.h"
#include "evenflow/v1/sessions.grpc.pb.h"

namespace evenflow {
namespace {

struct SessionFlags {
  ConnectionFlags connection;
  std::string id;
  std::optional<int64_t> idle_timeout_seconds;
  int page_size = 0;
  std::string page_token;
};

// One call of the service: prints its response as a JSON line, or why there is none.
template <class Request, class Response>
int Call(const SessionFlags& flags, const Request& request,
         grpc::Status (v1::Sessions::Stub::*method)(grpc::ClientContext*, const Request&,
                                                    Response*)) {
  const auto channel = OpenChannel(flags.connection.server);
  const auto stub = v1::Sessions::NewStub(channel);
  grpc::ClientContext context;
  SetDeadline(flags.connection, context);
  Response response;
  const grpc::Status status = (stub.get()->*method)(&context, request, &response);
  if (!status.ok()) {
    std::cerr << "evenflow: " << Explain(status, flags.connection.server, *channel) << '\n';
    return 1;
  }
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string line;
  if (!google::protobuf::util::MessageToJsonString(response, &line, options).ok()) {
    return 1;
  }
  std::cout << line << std::endl;
  return std::cout.good() ? 0 : 1;
}

int Create(const SessionFlags& flags) {
  v1::CreateSessionRequest request;
  request.set_model(flags.connection.model);
  request.set_session_id(flags.id);
  if (flags.idle_timeout_seconds) {
    request.mutable_idle_timeout()->set_seconds(*flags.idle_timeout_seconds);
  }
  return Call(flags, request, &v1::Sessions::Stub::Create);
}

int Get(const SessionFlags& flags) {
  v1::GetSessionRequest request;
  request.set_session_id(flags.id);
  return Call(flags, request, &v1::Sessions::Stub::Get);
}

int List(const SessionFlags& flags) {
  v1::ListSessionsRequest request;
  request.set_page_size(flags.page_size);
  request.set_page_token(flags.page_token);
  return Call(flags, request, &v1::Sessions::Stub::List);
}

int Delete(const SessionFlags& flags) {
  v1::DeleteSessionRequest request;
  request.set_session_id(flags.id);
  return Call(flags, request, &v1::Sessions::Stub::Delete);
}

}  // namespace

void AddSessionCommands(CLI::App& session, std::function<int()>& chosen) {
  const auto flags = std::make_shared<SessionFlags>();
  const auto add = [&](const char* name, const char* what, int (*run)(const SessionFlags&)) {
    CLI::App& command = *session.add_subcommand(name, what);
    AddConnectionFlags(command, flags->connection);
    command.callback([flags, run, &chosen] { chosen = [flags, run] { return run(*flags); }; });
    return &command;
  };
  CLI::App* create = add("create", "Make an empty session", &Create);
  create->add_option("id", flags->id, "Your own name for it; 128 random bits if not given");
  create->add_option("--idle-timeout", flags->idle_timeout_seconds,
                     "Seconds without a request after which it ends (server's default 600)");
  CLI::App* get = add("get", "Show a session: position, expiry, bytes", &Get);
  get->add_option("id", flags->id, "The session")->required();
  CLI::App* list = add("list", "List sessions, if the server allows it", &List);
  list->add_option("--page-size", flags->page_size, "1 to 1000 (default 100)");
  list->add_option("--page-token", flags->page_token, "Where the last page ended");
  CLI::App* remove = add("delete", "End a session and overwrite its memory", &Delete);
  remove->add_option("id", flags->id, "The session")->required();
  session.require_subcommand(1);
}

}  // namespace evenflow
