// The one place where the engine's errors become gRPC's. Pure function.
#ifndef EVENFLOW_SERVER_STATUS_H_
#define EVENFLOW_SERVER_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace evenflow {

grpc::Status ToGrpc(const absl::Status& status);

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_STATUS_H_
