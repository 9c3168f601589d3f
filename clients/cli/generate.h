// `evenflow generate`: one request, streamed to the terminal as it comes.
#ifndef EVENFLOW_CLIENTS_CLI_GENERATE_H_
#define EVENFLOW_CLIENTS_CLI_GENERATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "clients/cli/connection.h"
#include "evenflow/v1/generation.pb.h"

namespace evenflow {

struct GenerateCommand {
  ConnectionFlags connection;
  v1::GenerateRequest request;        // without the prompt
  std::optional<std::string> prompt;  // "-" is all of standard input
  std::vector<int32_t> tokens;        // the prompt as token ids
  bool json = false;                  // one JSON line for each message
  bool stats = false;                 // tokens and times to standard error at the end
};

void AddGenerateCommand(CLI::App& command, GenerateCommand& flags);

// Returns the exit code.
int RunGenerate(GenerateCommand flags);

}  // namespace evenflow

#endif  // EVENFLOW_CLIENTS_CLI_GENERATE_H_
