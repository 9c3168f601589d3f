// Reaching a server, and saying in one line what went wrong.
#ifndef EVENFLOW_CLIENTS_CLI_CONNECTION_H_
#define EVENFLOW_CLIENTS_CLI_CONNECTION_H_

#include <memory>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>
#include <grpcpp/grpcpp.h>

namespace evenflow {

// What every client command asks for.
struct ConnectionFlags {
  std::string server = "127.0.0.1:50051";
  std::string model;                      // "" is the model that the server serves
  std::optional<double> timeout_seconds;  // deadline of each call; none by default
};

void AddConnectionFlags(CLI::App& command, ConnectionFlags& flags);

// A channel that is not connected yet. `channel_number` makes it a TCP connection of its own.
std::shared_ptr<grpc::Channel> OpenChannel(const std::string& server, int channel_number = 0);

// Sets the call's deadline, if one was asked for.
void SetDeadline(const ConnectionFlags& flags, grpc::ClientContext& context);

// "RESOURCE_EXHAUSTED" for grpc::StatusCode::RESOURCE_EXHAUSTED.
std::string CodeName(grpc::StatusCode code);

// One line, without a line break: the code and the server's message; for a server that cannot be
// reached, what to try.
std::string Explain(const grpc::Status& status, const std::string& server, grpc::Channel& channel);

}  // namespace evenflow

#endif  // EVENFLOW_CLIENTS_CLI_CONNECTION_H_
