// HTTP beside gRPC: /metrics, /healthz (the process runs) and /readyz (it takes requests). Owned by
// Server; threads of its own.
#ifndef EVENFLOW_SERVER_METRICS_SERVER_H_
#define EVENFLOW_SERVER_METRICS_SERVER_H_

#include <atomic>
#include <memory>
#include <string>

#include <prometheus/collectable.h>

#include "absl/status/statusor.h"

namespace evenflow {

class MetricsServer {
 public:
  // `address` is HOST:PORT, port 0 for any. UNAVAILABLE when it cannot be bound. `collectable`
  // outlives the server.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(
      const std::string& address, const prometheus::Collectable& collectable);
  ~MetricsServer();

  void SetReady(bool ready) { ready_.store(ready); }

  int port() const;

 private:
  struct Http;
  explicit MetricsServer(const prometheus::Collectable& collectable);

  const prometheus::Collectable& collectable_;
  std::atomic<bool> ready_{false};
  std::unique_ptr<Http> http_;
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_METRICS_SERVER_H_
