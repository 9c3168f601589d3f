// evenflow.v1.Sessions: makes, shows and ends sessions. Owned by Server; thread-safe.
#ifndef EVENFLOW_SERVER_SESSIONS_SERVICE_H_
#define EVENFLOW_SERVER_SESSIONS_SERVICE_H_

#include "server/serving.h"

#include "evenflow/v1/sessions.grpc.pb.h"

namespace evenflow {

class SessionsService : public v1::Sessions::CallbackService {
 public:
  // `serving` outlives the service.
  explicit SessionsService(const Serving& serving) : serving_(serving) {}

  grpc::ServerUnaryReactor* Create(grpc::CallbackServerContext* context,
                                   const v1::CreateSessionRequest* request,
                                   v1::Session* response) override;
  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context,
                                const v1::GetSessionRequest* request,
                                v1::Session* response) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const v1::ListSessionsRequest* request,
                                 v1::ListSessionsResponse* response) override;
  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext* context,
                                   const v1::DeleteSessionRequest* request,
                                   v1::DeleteSessionResponse* response) override;

 private:
  const Serving& serving_;
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_SESSIONS_SERVICE_H_
