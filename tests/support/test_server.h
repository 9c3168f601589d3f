// A real server on 127.0.0.1 with a tiny random RetNet and a byte-level tokenizer, and a client of
// it. One test owns it; the client's calls may come from any thread.
#ifndef EVENFLOW_TESTS_SUPPORT_TEST_SERVER_H_
#define EVENFLOW_TESTS_SUPPORT_TEST_SERVER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "server/options.h"
#include "server/server.h"

#include "evenflow/v1/generation.grpc.pb.h"
#include "evenflow/v1/models.grpc.pb.h"
#include "evenflow/v1/sessions.grpc.pb.h"

namespace evenflow {

// The checkpoint, made once per process and removed at its end.
const std::string& TinyModelDirectory();

// Ports 0, one compute thread, 8 sessions.
ServeOptions TinyOptions();

// A whole response put together.
struct Answer {
  grpc::Status status;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::string text;
  v1::Finish finish;
  int64_t position = 0;
  int messages = 0;

  void Add(const v1::GenerateResponse& message);
};

class TestServer {
 public:
  explicit TestServer(const ServeOptions& options = TinyOptions());

  Server& server() const { return *server_; }

  std::unique_ptr<v1::Generation::Stub> generation() const;
  std::unique_ptr<v1::Sessions::Stub> sessions() const;
  std::unique_ptr<v1::Models::Stub> models() const;

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  Answer Generate(const v1::GenerateRequest& request) const;
  std::string CreateSession() const;
  // Body of an HTTP GET on the metrics address, "" on failure; *code is the status.
  std::string Http(const std::string& path, int* code = nullptr) const;
  // Value of a metric line, by its name and labels as written; -1 if absent.
  double Metric(const std::string& line) const;
  // Polls until the metric has this value, at most some seconds.
  bool WaitForMetric(const std::string& line, double value) const;

 private:
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

// A request with a text prompt; greedy, without end-of-text.
v1::GenerateRequest TextRequest(const std::string& prompt, int max_tokens);

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_SUPPORT_TEST_SERVER_H_
