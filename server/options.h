// Everything `evenflow serve` can be told, resolved once from the command line and --config, then
// constant. Plain data.
#ifndef EVENFLOW_SERVER_OPTIONS_H_
#define EVENFLOW_SERVER_OPTIONS_H_

#include <cstdint>
#include <string>

#include <CLI/CLI.hpp>

#include "engine/engine.h"
#include "kernels/memory.h"
#include "kernels/tensor.h"
#include "server/device.h"

#include "absl/status/status.h"

namespace evenflow {

struct ServeOptions {
  std::string model_directory;
  std::string model_name;  // empty: the directory's last part
  std::string listen = "127.0.0.1:50051";
  std::string metrics_listen = "127.0.0.1:9464";  // "none": no HTTP
  DeviceOptions device;
  DType state_dtype = DType::kF32;
  Window window;
  EngineOptions engine;
  double drain_timeout_seconds = 30;
  bool allow_session_listing = false;
  int max_message_bytes = 4 << 20;
  int max_streams = 1024;      // concurrent calls on one connection
  int memory_quota_mib = 512;  // of gRPC's buffers
  int delivery_threads = 2;
  bool verbose = false;
};

// Adds `serve` to `app`; the values land in *options, which outlives the parsing.
CLI::App* AddServeCommand(CLI::App& app, ServeOptions* options);

// What no single flag's range can tell: INVALID_ARGUMENT with one full sentence.
absl::Status CheckServeOptions(const ServeOptions& options);

// "did you mean --model?" for the first flag that no command knows; "" if there is none.
std::string SuggestFlag(const CLI::App& app);

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_OPTIONS_H_
