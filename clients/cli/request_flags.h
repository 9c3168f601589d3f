// Flags that fill the messages of proto/evenflow/v1/generation.proto. Ranges are the server's to
// check: it names the field, the value and what is allowed.
#ifndef EVENFLOW_CLIENTS_CLI_REQUEST_FLAGS_H_
#define EVENFLOW_CLIENTS_CLI_REQUEST_FLAGS_H_

#include <CLI/CLI.hpp>

#include "evenflow/v1/generation.pb.h"

namespace evenflow {

// --max-tokens, --temperature, --stop and the like. A flag that is not given leaves its field
// unset. `options` must outlive the parsing.
void AddGenerateFlags(CLI::App& command, v1::GenerateOptions& options);

}  // namespace evenflow

#endif  // EVENFLOW_CLIENTS_CLI_REQUEST_FLAGS_H_
