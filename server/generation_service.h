// evenflow.v1.Generation over gRPC's callback interface: the first room of a request's walk. Owned
// by Server; thread-safe.
#ifndef EVENFLOW_SERVER_GENERATION_SERVICE_H_
#define EVENFLOW_SERVER_GENERATION_SERVICE_H_

#include "server/live_calls.h"
#include "server/serving.h"

#include "evenflow/v1/generation.grpc.pb.h"

namespace evenflow {

class GenerationService : public v1::Generation::CallbackService {
 public:
  // `serving` outlives the service.
  explicit GenerationService(const Serving& serving) : serving_(serving) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;

  grpc::ServerBidiReactor<v1::StreamRequest, v1::StreamResponse>* Stream(
      grpc::CallbackServerContext* context) override;

  // Streams that wait for their client end with UNAVAILABLE, others after their response.
  // `serving.draining` must be set before.
  void OnDraining() { streams_.PokeAll(); }

 private:
  const Serving& serving_;
  LiveCalls streams_;
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_GENERATION_SERVICE_H_
