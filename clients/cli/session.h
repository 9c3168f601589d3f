// `evenflow session create|get|list|delete`: sessions as objects, printed as JSON lines.
#ifndef EVENFLOW_CLIENTS_CLI_SESSION_H_
#define EVENFLOW_CLIENTS_CLI_SESSION_H_

#include <functional>
#include <string>

#include <CLI/CLI.hpp>

namespace evenflow {

// Adds the four commands; a chosen one is put into `chosen`, which returns the exit code.
void AddSessionCommands(CLI::App& session, std::function<int()>& chosen);

}  // namespace evenflow

#endif  // EVENFLOW_CLIENTS_CLI_SESSION_H_
