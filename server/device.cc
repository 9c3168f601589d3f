#include "server/device.h"

#include <map>
#include <string>

#include "absl/strings/str_cat.h"

namespace evenflow {

void AddDeviceFlags(CLI::App* command, DeviceOptions* options) {
  command->add_option("--device", options->device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--activations", options->activations, "fp32 or bf16 [what suits the device]")
      ->check(CLI::IsMember({"fp32", "bf16"}));
  command->add_flag(
      "--batch-invariant", options->batch_invariant,
      "Results do not depend on the load, to the bit; steps of few and of more than 64 tokens "
      "take longer. The CPU's never do");
  command->add_option("--threads", options->threads, "Compute threads; 0: one for each core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

void AddStateDtypeFlag(CLI::App* command, DType* dtype) {
  command->add_option("--state-dtype", *dtype, "fp32 or bf16 [fp32]")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, DType>{{"fp32", DType::kF32}, {"bf16", DType::kBF16}}));
}

absl::Status CheckDeviceOptions(const DeviceOptions& options) {
  if (options.device == "cpu" && options.activations == "bf16") {
    return absl::InvalidArgumentError(
        "--activations is bf16; on --device cpu only fp32 is served (weights may be bf16)");
  }
  if (options.device == "cuda" && options.activations == "fp32" && options.batch_invariant) {
    return absl::InvalidArgumentError(
        "--batch-invariant with --activations fp32; on --device cuda only bf16 is served so");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const DeviceOptions& options) {
  if (absl::Status status = CheckDeviceOptions(options); !status.ok()) {
    return status;
  }
  BackendOptions backend_options;
  backend_options.threads = options.threads;
  backend_options.activations = options.activations == "fp32" ? DType::kF32 : DType::kBF16;
  backend_options.batch_invariant = options.batch_invariant;
  if (options.device == "cpu") {
    return CreateCpuBackend(backend_options);
  }
  std::string error;
  std::unique_ptr<Backend> backend = CreateCudaBackend(backend_options, &error);
  if (backend == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("--device cuda: ", error));
  }
  return backend;
}

}  // namespace evenflow
