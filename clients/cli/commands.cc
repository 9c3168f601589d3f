#include "clients/cli/commands.h"

#include <memory>

#include "clients/cli/bench/bench_serve.h"
#include "clients/cli/chat.h"
#include "clients/cli/generate.h"
#include "clients/cli/session.h"

namespace evenflow {
namespace {

// The flags live as long as the parser's callback, which alone refers to them.
template <class Flags>
void AddCommand(CLI::App& command, void (*add)(CLI::App&, Flags&), int (*run)(Flags),
                std::function<int()>& chosen) {
  auto flags = std::make_shared<Flags>();
  add(command, *flags);
  command.callback([flags, run, &chosen] { chosen = [flags, run] { return run(*flags); }; });
}

}  // namespace

void AddClientCommands(CLI::App& app, CLI::App& bench, std::function<int()>& chosen) {
  AddCommand(*app.add_subcommand("generate", "Send a prompt to a server and stream the answer"),
             &AddGenerateCommand, &RunGenerate, chosen);
  AddCommand(*app.add_subcommand("chat", "Talk to a server in plain turns, on one session"),
             &AddChatCommand, &RunChat, chosen);
  AddSessionCommands(*app.add_subcommand("session", "Make, show and end sessions on a server"),
                     chosen);
  AddCommand(*bench.add_subcommand("serve", "Load a server with requests and report latencies"),
             &AddBenchServeCommand, &RunBenchServe, chosen);
}

}  // namespace evenflow
