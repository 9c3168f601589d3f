// The client commands of the `evenflow` binary: generate, chat and bench serve. They speak
// proto/evenflow/v1 over gRPC and know nothing else of the server.
#ifndef EVENFLOW_CLIENTS_CLI_COMMANDS_H_
#define EVENFLOW_CLIENTS_CLI_COMMANDS_H_

#include <functional>

#include <CLI/CLI.hpp>

namespace evenflow {

// Adds `generate` and `chat` to `app` and `serve` to `bench`, which is main's own subcommand
// (`bench step` is there too). Parsing only sets `chosen`; main then calls it once and exits with
// what it returns: 0, 1 for a failed call, 130 after Ctrl-C. `chosen` must outlive the parsing.
void AddClientCommands(CLI::App& app, CLI::App& bench, std::function<int()>& chosen);

}  // namespace evenflow

#endif  // EVENFLOW_CLIENTS_CLI_COMMANDS_H_
