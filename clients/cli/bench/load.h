// Sends requests at given times, whether earlier ones are done or not, and records what comes back.
#ifndef EVENFLOW_CLIENTS_CLI_BENCH_LOAD_H_
#define EVENFLOW_CLIENTS_CLI_BENCH_LOAD_H_

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "clients/cli/bench/statistics.h"
#include "evenflow/v1/generation.grpc.pb.h"

namespace evenflow {

struct LoadPlan {
  std::vector<double> send_seconds;           // ascending, from the start; one request each
  std::vector<v1::GenerateRequest> requests;  // as many
  std::optional<int64_t> max_concurrency;     // a request waits here while so many are running
  std::optional<double> timeout_seconds;      // deadline of each request
};

struct LoadProgress {
  int64_t sent = 0, running = 0, ended = 0, failed = 0;
  int64_t peak_running = 0;
};

// Thread-safe. Run is called once.
class Load {
 public:
  // Requests take turns over the channels.
  Load(std::vector<std::shared_ptr<grpc::Channel>> channels, LoadPlan plan);
  ~Load();

  // Returns when all have ended: one record for each request that was sent, in order.
  std::vector<RequestRecord> Run();

  // Sends no more and cancels what is running.
  void Cancel();

  LoadProgress progress() const;

 private:
  class Call;

  // Waits for request `index`'s time and for room. False once cancelled.
  bool AwaitTurn(size_t index, Clock::time_point start);
  void Ended(bool failed);

  const LoadPlan plan_;
  std::vector<std::unique_ptr<v1::Generation::Stub>> stubs_;
  mutable absl::Mutex mutex_;
  std::vector<std::unique_ptr<Call>> calls_ ABSL_GUARDED_BY(mutex_);
  LoadProgress progress_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace evenflow

#endif  // EVENFLOW_CLIENTS_CLI_BENCH_LOAD_H_
