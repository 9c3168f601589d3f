// `evenflow bench serve`: open-loop load over gRPC, with the measures and JSON keys of
// `vllm bench serve`.
#ifndef EVENFLOW_CLIENTS_CLI_BENCH_BENCH_SERVE_H_
#define EVENFLOW_CLIENTS_CLI_BENCH_BENCH_SERVE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "clients/cli/bench/load.h"
#include "clients/cli/bench/statistics.h"
#include "clients/cli/connection.h"
#include "evenflow/v1/models.pb.h"

namespace evenflow {

struct BenchServeCommand {
  ConnectionFlags connection;
  int64_t num_prompts = 100;
  int64_t num_warmups = 0;
  int64_t input_len = 128;   // tokens
  int64_t output_len = 128;  // tokens
  double request_rate = 0;   // requests per second; 0 and inf: all at once
  double ramp_seconds = 0;
  std::optional<int64_t> max_concurrency;
  int connections = 1;
  uint64_t random_seed = 0;
  std::vector<std::string> goodput;
  bool json = false;
};

void AddBenchServeCommand(CLI::App& command, BenchServeCommand& flags);

// Returns the exit code: 0 if at least one request completed.
int RunBenchServe(BenchServeCommand flags);

// Requests of `count` times input_len random token ids, end and beginning of text left out, that
// each generate output_len tokens. Equal flags and seed give equal requests.
std::vector<v1::GenerateRequest> RandomRequests(const BenchServeCommand& flags,
                                                const v1::Model& model, int64_t count);

struct LoadReport {
  const BenchServeCommand& flags;
  const v1::Model& model;
  const LoadStatistics& statistics;
  bool has_objectives;
};

// One JSON object in one line, with vLLM's keys.
std::string ReportAsJson(const LoadReport& report);

// A table for people.
std::string ReportAsText(const LoadReport& report);

}  // namespace evenflow

#endif  // EVENFLOW_CLIENTS_CLI_BENCH_BENCH_SERVE_H_
