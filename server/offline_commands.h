// Commands that need no server: logits, inspect and bench step.
#ifndef EVENFLOW_SERVER_OFFLINE_COMMANDS_H_
#define EVENFLOW_SERVER_OFFLINE_COMMANDS_H_

#include <functional>

#include <CLI/CLI.hpp>

namespace evenflow {

// Adds `logits` and `inspect` to `app` and `step` to `bench`. Parsing only sets `chosen`; main then
// calls it and exits with what it returns. `chosen` must outlive the parsing.
void AddOfflineCommands(CLI::App& app, CLI::App& bench, std::function<int()>& chosen);

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_OFFLINE_COMMANDS_H_
