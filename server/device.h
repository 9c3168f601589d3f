// The device that a command computes on, and its flags. Free functions.
#ifndef EVENFLOW_SERVER_DEVICE_H_
#define EVENFLOW_SERVER_DEVICE_H_

#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "kernels/backend.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace evenflow {

struct DeviceOptions {
  std::string device = "cpu";
  std::string activations;  // empty: fp32 on the CPU, bf16 on CUDA
  int threads = 0;          // 0: one for each core
  bool batch_invariant = false;
};

// Adds --device, --activations, --batch-invariant and --threads; the values land in *options.
void AddDeviceFlags(CLI::App* command, DeviceOptions* options);

// Adds --state-dtype.
void AddStateDtypeFlag(CLI::App* command, DType* dtype);

// INVALID_ARGUMENT: activations that the device does not have, or not so.
absl::Status CheckDeviceOptions(const DeviceOptions& options);

// FAILED_PRECONDITION: the device is not there, or this binary was built without it.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const DeviceOptions& options);

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_DEVICE_H_
