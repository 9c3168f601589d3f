#include "clients/cli/connection.h"

#include <array>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace evenflow {

void AddConnectionFlags(CLI::App& command, ConnectionFlags& flags) {
  command.add_option("--server", flags.server, "Address of the server, HOST:PORT")
      ->capture_default_str();
  command.add_option("--model", flags.model, "Model name; the served one if not given");
  command
      .add_option("--timeout", flags.timeout_seconds,
                  "Seconds a call may take; no limit if not given")
      ->check(CLI::PositiveNumber);
}

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& server, int channel_number) {
  grpc::ChannelArguments arguments;
  // A web proxy named in the environment is meant for other traffic, and knows no loopback.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (channel_number > 0) {
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  }
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
}

void SetDeadline(const ConnectionFlags& flags, grpc::ClientContext& context) {
  if (flags.timeout_seconds) {
    context.set_deadline(
        std::chrono::system_clock::now() +
        std::chrono::microseconds(static_cast<int64_t>(*flags.timeout_seconds * 1e6)));
  }
}

std::string CodeName(grpc::StatusCode code) {
  static constexpr std::array<const char*, 17> kNames = {"OK",
                                                         "CANCELLED",
                                                         "UNKNOWN",
                                                         "INVALID_ARGUMENT",
                                                         "DEADLINE_EXCEEDED",
                                                         "NOT_FOUND",
                                                         "ALREADY_EXISTS",
                                                         "PERMISSION_DENIED",
                                                         "RESOURCE_EXHAUSTED",
                                                         "FAILED_PRECONDITION",
                                                         "ABORTED",
                                                         "OUT_OF_RANGE",
                                                         "UNIMPLEMENTED",
                                                         "INTERNAL",
                                                         "UNAVAILABLE",
                                                         "DATA_LOSS",
                                                         "UNAUTHENTICATED"};
  const auto number = static_cast<size_t>(code);
  return number < kNames.size() ? kNames[number] : absl::StrCat("CODE_", static_cast<int>(code));
}

std::string Explain(const grpc::Status& status, const std::string& server, grpc::Channel& channel) {
  const std::string message =
      absl::StrReplaceAll(status.error_message(), {{"\r", " "}, {"\n", " "}});
  const bool unreachable = status.error_code() == grpc::StatusCode::UNAVAILABLE &&
                           channel.GetState(false) == GRPC_CHANNEL_TRANSIENT_FAILURE;
  if (unreachable) {
    return absl::StrCat("UNAVAILABLE: no server answers at ", server,
                        "; start one with `evenflow serve --model DIR --listen ", server,
                        "` or name another with --server (", message, ")");
  }
  return absl::StrCat(CodeName(status.error_code()), ": ", message);
}

}  // namespace evenflow
