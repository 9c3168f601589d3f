// evenflow.v1.Models: the model that is served, and its tokenizer. Owned by Server; thread-safe.
#ifndef EVENFLOW_SERVER_MODELS_SERVICE_H_
#define EVENFLOW_SERVER_MODELS_SERVICE_H_

#include "server/serving.h"

#include "evenflow/v1/models.grpc.pb.h"

namespace evenflow {

class ModelsService : public v1::Models::CallbackService {
 public:
  // `serving` outlives the service.
  explicit ModelsService(const Serving& serving) : serving_(serving) {}

  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context,
                                const v1::GetModelRequest* request, v1::Model* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  const Serving& serving_;
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_MODELS_SERVICE_H_
