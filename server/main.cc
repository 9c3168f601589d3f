// The `evenflow` program: one binary of all commands. The server is in server.h, the client
// commands in clients/cli.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include <CLI/CLI.hpp>
#include <unistd.h>

#include "server/log.h"
#include "server/offline_commands.h"
#include "server/options.h"
#include "server/server.h"
#include "server/version.h"

#include "absl/synchronization/notification.h"
#include "clients/cli/commands.h"

namespace evenflow {
namespace {

// On a terminal only.
void ShowProgress(double fraction) {
  if (isatty(STDERR_FILENO) != 0) {
    std::fprintf(stderr, "\rloading %3.0f %%%s", fraction * 100, fraction >= 1 ? "\n" : "");
  }
}

// The first signal asks for a drain once there is something to drain, any other ends the process.
// Blocks both signals in this thread and those it starts.
class Signals {
 public:
  Signals() {
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGINT);
    sigaddset(&both, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &both, nullptr);
    std::thread([this, both] {
      for (int signal = 0;;) {
        if (sigwait(&both, &signal) != 0) {
          continue;
        }
        if (!serving_.load() || drain_.HasBeenNotified()) {
          std::_Exit(128 + signal);
        }
        drain_.Notify();
      }
    }).detach();
  }

  void Serving() { serving_.store(true); }

  void WaitForDrain() { drain_.WaitForNotification(); }

 private:
  std::atomic<bool> serving_{false};
  absl::Notification drain_;
};

int Serve(const ServeOptions& options) {
  if (options.verbose) {
    log_threshold.store(LogLevel::kDebug);
  }
  static Signals* signals = new Signals;  // its thread lives as long as the process
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(options, ShowProgress);
  if (!server.ok()) {
    std::fprintf(stderr, "evenflow: %s\n", std::string(server.status().message()).c_str());
    return 1;
  }
  signals->Serving();
  std::printf("listening on %s\n", (*server)->address().c_str());
  if (!(*server)->metrics_address().empty()) {
    std::printf("metrics on http://%s/metrics\n", (*server)->metrics_address().c_str());
  }
  std::fflush(stdout);
  signals->WaitForDrain();
  Log(LogLevel::kInfo, "draining");
  (*server)->Drain();
  Log(LogLevel::kInfo, "drained");
  return 0;
}

int Main(int argc, char** argv) {
  CLI::App app("Evenflow serves recurrent language models: constant memory per session, over gRPC",
               "evenflow");
  app.set_version_flag("--version", kVersion);
  app.set_config("--config", "", "Flags from a TOML file; those of `serve` under [serve]");
  app.require_subcommand(1);
  app.fallthrough();
  std::function<int()> chosen;
  ServeOptions serve_options;
  AddServeCommand(app, &serve_options)->callback([&] {
    chosen = [&] { return Serve(serve_options); };
  });
  CLI::App* bench = app.add_subcommand("bench", "Measure a server, or the engine's step");
  bench->require_subcommand(1);
  AddClientCommands(app, *bench, chosen);
  AddOfflineCommands(app, *bench, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (const std::string suggestion = SuggestFlag(app); !suggestion.empty()) {
      std::fprintf(stderr, "evenflow: %s\n", suggestion.c_str());
      return 2;
    }
    return app.exit(error);
  }
  return chosen();
}

}  // namespace
}  // namespace evenflow

int main(int argc, char** argv) {
  return evenflow::Main(argc, argv);
}
