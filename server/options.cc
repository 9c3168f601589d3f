#include "server/options.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace evenflow {

namespace {

// HOST:PORT with a port of 0 (any) to 65535.
std::string CheckAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return absl::StrCat("\"", address, "\" is not HOST:PORT with a port of 0 to 65535");
  }
  return "";
}

void AddSeconds(CLI::App* command, const std::string& name, std::chrono::milliseconds* to,
                const std::string& help) {
  command
      ->add_option_function<double>(
          name,
          [to](double seconds) {
            *to = std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
          },
          help)
      ->type_name("SECONDS")
      ->check(CLI::Range(0.001, 1e9));
}

void AddModelFlags(CLI::App* command, ServeOptions* options) {
  command->add_option("--model", options->model_directory, "Checkpoint directory")
      ->required()
      ->type_name("DIR");
  command->add_option("--model-name", options->model_name,
                      "Name that clients use [the directory's]");
  AddDeviceFlags(command, &options->device);
  AddStateDtypeFlag(command, &options->state_dtype);
  command
      ->add_option("--window", options->window.commit,
                   "Tokens between two commits of a state; 1 is the classic recurrence")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command
      ->add_option("--rollback", options->window.rollback, "Newest tokens that are never committed")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
}

void AddEngineFlags(CLI::App* command, ServeOptions* options) {
  EngineOptions& engine = options->engine;
  command
      ->add_option("--max-sessions", engine.max_sessions,
                   "State slots; 0: 64 on the CPU, as many as fit on CUDA")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command
      ->add_option(
          "--max-checkpoints", engine.max_checkpoints,
          "Requests with stop strings that generate at once; 0: as many as sessions on the "
          "CPU, an eighth on CUDA")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command
      ->add_option_function<double>(
          "--host-memory",
          [&engine](double gib) {
            engine.host_memory_bytes = static_cast<int64_t>(gib * static_cast<double>(1 << 30));
          },
          "Host memory that states of idle sessions move to when others want their slots, taken "
          "when it is needed [4 on CUDA, 0 on the CPU]")
      ->type_name("GIB")
      ->check(CLI::Range(0.0, 65536.0));
  command->add_option("--max-queue", engine.max_queue, "Requests that may wait for a slot")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command->add_option("--max-rows", engine.max_rows, "Sessions in one step")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  engine.step_tokens = 0;
  command
      ->add_option("--step-tokens", engine.step_tokens,
                   "Tokens in one step, prompts included; 0: 256 on the CPU, 512 on CUDA")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  command
      ->add_option("--max-prompt-tokens", engine.max_prompt_tokens, "Longest prompt of one request")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  command
      ->add_option("--outbox-tokens", engine.outbox_tokens,
                   "Unread tokens after which a stream waits for its reader")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  AddSeconds(command, "--slow-reader-limit", &engine.slow_reader_limit,
             "How long a stream waits for its reader [30]");
  AddSeconds(command, "--idle-timeout", &engine.idle_timeout,
             "When an idle session ends, unless it says otherwise [600]");
  AddSeconds(command, "--max-idle-timeout", &engine.max_idle_timeout,
             "Longest idle timeout that a session may ask for [86400]");
}

void AddServerFlags(CLI::App* command, ServeOptions* options) {
  command->add_option("--listen", options->listen, "gRPC address; port 0 takes a free one")
      ->type_name("HOST:PORT")
      ->check(CheckAddress)
      ->capture_default_str();
  command
      ->add_option("--metrics-listen", options->metrics_listen,
                   "HTTP address of /metrics, /healthz and /readyz; none: they are not served")
      ->type_name("HOST:PORT")
      ->check(
          [](const std::string& address) { return address == "none" ? "" : CheckAddress(address); })
      ->capture_default_str();
  command
      ->add_option("--drain-timeout", options->drain_timeout_seconds,
                   "How long running streams may go on after SIGTERM")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  command->add_flag("--allow-session-listing", options->allow_session_listing,
                    "Let every client see all sessions");
  command->add_option("--max-message-bytes", options->max_message_bytes, "Largest request message")
      ->check(CLI::Range(1024, 1 << 30))
      ->capture_default_str();
  command->add_option("--max-streams", options->max_streams, "Concurrent calls of one connection")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--memory-quota-mib", options->memory_quota_mib, "Limit of gRPC's buffers")
      ->check(CLI::Range(16, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--delivery-threads", options->delivery_threads,
                   "Threads that move tokens to clients")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_flag("--verbose", options->verbose, "Log every request (never its text)");
}

// Levenshtein.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row.back();
}

void Names(const CLI::App& app, std::vector<std::string>* names) {
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      names->push_back("--" + name);
    }
  }
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    Names(*command, names);
  }
}

}  // namespace

CLI::App* AddServeCommand(CLI::App& app, ServeOptions* options) {
  CLI::App* command = app.add_subcommand("serve", "Serve a model over gRPC");
  AddModelFlags(command, options);
  AddServerFlags(command, options);
  AddEngineFlags(command, options);
  return command;
}

absl::Status CheckServeOptions(const ServeOptions& options) {
  if (absl::Status status = CheckDeviceOptions(options.device); !status.ok()) {
    return status;
  }
  if (options.engine.idle_timeout > options.engine.max_idle_timeout) {
    return absl::InvalidArgumentError("--idle-timeout is longer than --max-idle-timeout");
  }
  return absl::OkStatus();
}

std::string SuggestFlag(const CLI::App& app) {
  std::vector<std::string> names;
  Names(app, &names);
  for (const std::string& argument : app.remaining(/*recurse=*/true)) {
    if (argument.size() < 3 || argument.compare(0, 2, "--") != 0) {
      continue;
    }
    const std::string flag = argument.substr(0, argument.find('='));
    const auto nearest = std::min_element(names.begin(), names.end(),
                                          [&](const std::string& a, const std::string& b) {
                                            return EditDistance(a, flag) < EditDistance(b, flag);
                                          });
    if (nearest != names.end()) {
      return absl::StrCat("unknown flag ", flag, "; did you mean ", *nearest, "?");
    }
  }
  return "";
}

}  // namespace evenflow
