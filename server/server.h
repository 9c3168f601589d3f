// The server: model, engine, gRPC services and metrics, from start to drain. Owned by main or a
// test; Drain and the destructor are called by one thread.
#ifndef EVENFLOW_SERVER_SERVER_H_
#define EVENFLOW_SERVER_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "server/options.h"

#include "absl/status/statusor.h"

namespace evenflow {

class Server {
 public:
  // Loads the model and serves. `progress` is told the fraction that is loaded; may be empty.
  // Errors are one full sentence for the operator.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      const ServeOptions& options, std::function<void(double fraction)> progress);

  // Ends what still runs.
  ~Server();

  // As bound: HOST:PORT.
  const std::string& address() const;
  const std::string& metrics_address() const;  // "" without --metrics-listen

  // Not ready first; new requests get UNAVAILABLE; returns when the running ones are finished or
  // the drain timeout is over. The server answers nothing after that.
  void Drain();

 private:
  struct Parts;
  explicit Server(std::unique_ptr<Parts> parts);

  const std::unique_ptr<Parts> parts_;
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_SERVER_H_
