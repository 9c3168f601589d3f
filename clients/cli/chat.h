// `evenflow chat`: plain turns on one bidirectional stream. The session lives as long as the
// stream, or longer if it is named.
#ifndef EVENFLOW_CLIENTS_CLI_CHAT_H_
#define EVENFLOW_CLIENTS_CLI_CHAT_H_

#include <CLI/CLI.hpp>

#include "clients/cli/connection.h"
#include "evenflow/v1/generation.pb.h"

namespace evenflow {

struct ChatCommand {
  ConnectionFlags connection;
  v1::StreamConfig config;
  v1::GenerateOptions options;  // of every turn
};

void AddChatCommand(CLI::App& command, ChatCommand& flags);

// Reads turns from standard input until its end or /exit. Returns the exit code.
int RunChat(ChatCommand flags);

}  // namespace evenflow

#endif  // EVENFLOW_CLIENTS_CLI_CHAT_H_
