#include "server/offline_commands.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/inspect.h"
#include "engine/model/logits.h"
#include "engine/model/model.h"
#include "kernels/backend.h"
#include "server/bench_step.h"
#include "server/device.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace evenflow {

namespace {

int Report(const absl::Status& status) {
  if (status.ok()) {
    return 0;
  }
  std::fprintf(stderr, "evenflow: %s\n", std::string(status.message()).c_str());
  return 1;
}

struct ModelFlags {
  std::string directory;
  Window window;
};

void AddModelFlags(CLI::App* command, ModelFlags* flags) {
  command->add_option("--model", flags->directory, "Checkpoint directory")
      ->required()
      ->type_name("DIR");
  command->add_option("--window", flags->window.commit, "Tokens between two commits of a state")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
}

struct LogitsFlags {
  ModelFlags model;
  DeviceOptions device;
  std::vector<int32_t> tokens;
  std::string output;
  int chunk = 64;
};

absl::Status RunLogits(const LogitsFlags& flags) {
  const absl::StatusOr<std::unique_ptr<Backend>> backend = MakeBackend(flags.device);
  if (!backend.ok()) {
    return backend.status();
  }
  ModelOptions options;
  options.window = flags.model.window;
  options.max_step_tokens = flags.chunk;
  options.max_step_logits = flags.chunk;
  absl::StatusOr<std::unique_ptr<Model>> model =
      Model::Load(flags.model.directory, options, **backend);
  if (!model.ok()) {
    return model.status();
  }
  const absl::StatusOr<std::vector<float>> logits =
      ComputeLogits(**model, **backend, flags.tokens, flags.chunk);
  if (!logits.ok()) {
    return logits.status();
  }
  return WriteLogits(flags.output, *logits, (*model)->info().vocab_size);
}

struct InspectFlags {
  ModelFlags model;
  bool json = false;
};

absl::Status RunInspect(const InspectFlags& flags) {
  const std::unique_ptr<Backend> backend = CreateCpuBackend({});
  ModelOptions options;
  options.window = flags.model.window;
  options.max_step_tokens = 1;
  options.max_step_logits = 1;
  const absl::StatusOr<std::unique_ptr<Model>> model =
      Model::Load(flags.model.directory, options, *backend);
  if (!model.ok()) {
    return model.status();
  }
  const std::string text = flags.json ? InspectJson(**model) : InspectText(**model);
  std::printf("%s%s", text.c_str(), text.empty() || text.back() != '\n' ? "\n" : "");
  return absl::OkStatus();
}

// The flags live as long as the parser's callback, which alone refers to them.
template <class Flags>
std::shared_ptr<Flags> Choose(CLI::App* command, absl::Status (*run)(const Flags&),
                              std::function<int()>& chosen) {
  auto flags = std::make_shared<Flags>();
  command->callback(
      [flags, run, &chosen] { chosen = [flags, run] { return Report(run(*flags)); }; });
  return flags;
}

void AddBenchStep(CLI::App& bench, std::function<int()>& chosen) {
  CLI::App* command =
      bench.add_subcommand("step", "Time the engine's step against the memory bandwidth");
  const auto flags = Choose(command, &RunBenchStep, chosen);
  CLI::App* checkpoint = command->add_option_group("Checkpoint");
  checkpoint->require_option(1, 2);
  checkpoint->add_option("--model", flags->directory, "Checkpoint directory")->type_name("DIR");
  checkpoint
      ->add_option("--random", flags->random,
                   "Make a random checkpoint of this size, in --model if given")
      ->check(CLI::IsMember(
          std::vector<std::string>(std::begin(kRandomModels), std::end(kRandomModels))));
  AddDeviceFlags(command, &flags->device);
  AddStateDtypeFlag(command, &flags->state_dtype);
  command->add_option("--rows", flags->rows, "Sessions that decode together")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--steps", flags->steps, "Steps that are timed")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command
      ->add_option("--prompt-tokens", flags->prompt_tokens,
                   "Also time the reading of a prompt of so many tokens")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command->add_option("--step-tokens", flags->step_tokens, "Tokens of such a prompt in one step")
      ->check(CLI::Range(64, 65536))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "One JSON object");
}

}  // namespace

void AddOfflineCommands(CLI::App& app, CLI::App& bench, std::function<int()>& chosen) {
  CLI::App* logits = app.add_subcommand("logits", "Compute the logits of a list of tokens");
  const auto logits_flags = Choose(logits, &RunLogits, chosen);
  AddModelFlags(logits, &logits_flags->model);
  AddDeviceFlags(logits, &logits_flags->device);
  logits->add_option("--tokens", logits_flags->tokens, "Token ids, separated by commas")
      ->required()
      ->delimiter(',');
  logits->add_option("--output", logits_flags->output, "safetensors file to write")
      ->required()
      ->type_name("FILE");
  logits->add_option("--chunk", logits_flags->chunk, "Tokens of one step")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();

  CLI::App* inspect = app.add_subcommand("inspect", "Show what a checkpoint is made of");
  const auto inspect_flags = Choose(inspect, &RunInspect, chosen);
  AddModelFlags(inspect, &inspect_flags->model);
  inspect->add_flag("--json", inspect_flags->json, "One JSON object");

  AddBenchStep(bench, chosen);
}

}  // namespace evenflow
