// What an operator meets: health, metrics, ports in use, drain, bad start-ups.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <gtest/gtest.h>

#include "tests/support/test_server.h"

namespace evenflow {
namespace {

using ::testing::HasSubstr;

TEST(ModelsTest, DescribesTokenizesDetokenizes) {
  const TestServer server;
  const auto models = server.models();
  v1::Model model;
  grpc::ClientContext get_context, tokenize_context, detokenize_context;
  ASSERT_TRUE(models->Get(&get_context, {}, &model).ok());
  EXPECT_EQ(model.name(), "tiny");
  EXPECT_EQ(model.model_type(), "retnet");
  EXPECT_EQ(model.vocab_size(), 272);
  EXPECT_GT(model.state_bytes_per_session(), 0);
  EXPECT_TRUE(model.has_tokenizer());
  v1::TokenizeRequest tokenize;
  tokenize.set_text("the abcd!");
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(models->Tokenize(&tokenize_context, tokenize, &tokens).ok());
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  ASSERT_TRUE(models->Detokenize(&detokenize_context, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "the abcd!");
}

// grpc.health.v1.Health, called without its generated code: the messages are one field each.
class Health {
 public:
  explicit Health(const TestServer& server) : stub_(server.channel()) {}

  // Status of Check: 1 SERVING, 2 NOT_SERVING, -1 for an error.
  int Check(const std::string& service) {
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const auto call =
        stub_.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", Request(service), &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, this);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status.ok() ? Parse(&response) : -1;
  }

  // The first `count` values that Watch tells.
  std::vector<int> Watch(const std::string& service, size_t count, std::atomic<int>* seen) {
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    void* tag = nullptr;
    bool ok = false;
    const auto call = stub_.PrepareCall(&context, "/grpc.health.v1.Health/Watch", &queue);
    call->StartCall(this);
    queue.Next(&tag, &ok);
    call->WriteLast(Request(service), grpc::WriteOptions(), this);
    queue.Next(&tag, &ok);
    std::vector<int> values;
    while (values.size() < count) {
      grpc::ByteBuffer response;
      call->Read(&response, this);
      if (!queue.Next(&tag, &ok) || !ok) {
        break;
      }
      values.push_back(Parse(&response));
      seen->fetch_add(1);
    }
    context.TryCancel();
    grpc::Status status;
    call->Finish(&status, this);
    queue.Next(&tag, &ok);
    return values;
  }

 private:
  static grpc::ByteBuffer Request(const std::string& service) {
    std::string bytes;
    if (!service.empty()) {
      bytes = std::string("\x0A") + static_cast<char>(service.size()) + service;
    }
    const grpc::Slice slice(bytes);
    return grpc::ByteBuffer(&slice, 1);
  }

  static int Parse(grpc::ByteBuffer* response) {
    grpc::Slice slice;
    return response->DumpToSingleSlice(&slice).ok() && slice.size() == 2 ? slice.begin()[1] : 0;
  }

  grpc::GenericStub stub_;
};

TEST(HealthTest, CheckAndWatchTellOfTheDrain) {
  TestServer server;
  Health health(server);
  EXPECT_EQ(health.Check(""), 1);
  EXPECT_EQ(health.Check("evenflow.v1.Generation"), 1);
  EXPECT_EQ(health.Check("nobody"), -1);
  std::atomic<int> seen{0};
  std::vector<int> watched;
  std::thread watcher([&] { watched = Health(server).Watch("evenflow.v1.Generation", 2, &seen); });
  while (seen.load() == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  server.server().Drain();
  watcher.join();
  EXPECT_THAT(watched, ::testing::ElementsAre(1, 2));
}

TEST(MetricsTest, PagesAndNumbers) {
  const TestServer server;
  int code = 0;
  EXPECT_EQ(server.Http("/healthz", &code), "ok\n");
  EXPECT_EQ(code, 200);
  EXPECT_EQ(server.Http("/readyz", &code), "ready\n");
  server.Http("/nothing", &code);
  EXPECT_EQ(code, 404);
  ASSERT_TRUE(server.Generate(TextRequest(std::string(50, 'x'), 30)).status.ok());
  const std::string label = "{model_name=\"tiny\"}";
  EXPECT_EQ(server.Metric("evenflow_prompt_tokens_total" + label), 50);
  EXPECT_EQ(server.Metric("evenflow_generation_tokens_total" + label), 30);
  EXPECT_EQ(server.Metric("evenflow_time_to_first_token_seconds_count" + label), 1);
  EXPECT_EQ(server.Metric("evenflow_inter_token_latency_seconds_count" + label), 29);
  EXPECT_EQ(server.Metric("evenflow_e2e_request_latency_seconds_count" + label), 1);
  EXPECT_EQ(server.Metric("evenflow_request_queue_time_seconds_count" + label), 1);
  EXPECT_EQ(server.Metric("evenflow_state_slots_total" + label), 8);
  EXPECT_EQ(
      server.Metric("evenflow_requests_finished_total{model_name=\"tiny\",reason=\"length\"}"), 1);
  EXPECT_GT(server.Metric("evenflow_step_rows_count" + label), 29);
  EXPECT_GT(
      server.Metric("evenflow_state_norm_count{model_name=\"tiny\",layer=\"1\",plane=\"state\"}"),
      0);
}

TEST(MetricsTest, PromtoolFindsNothing) {
  if (std::system("command -v promtool > /dev/null") != 0) {
    GTEST_SKIP() << "promtool (Debian package prometheus) is not installed";
  }
  const TestServer server;
  ASSERT_TRUE(server.Generate(TextRequest("x", 5)).status.ok());
  const std::string path = TinyModelDirectory() + "/metrics.txt";
  std::ofstream(path) << server.Http("/metrics");
  EXPECT_EQ(std::system(("promtool check metrics < " + path + " >&2").c_str()), 0);
}

TEST(ServerTest, APortInUseIsAnError) {
  const TestServer first;
  ServeOptions options = TinyOptions();
  options.listen = first.server().address();
  const auto second = Server::Start(options, nullptr);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(options.listen + " is in use"));
  options = TinyOptions();
  options.metrics_listen = first.server().metrics_address();
  const auto third = Server::Start(options, nullptr);
  ASSERT_FALSE(third.ok());
  EXPECT_THAT(std::string(third.status().message()),
              HasSubstr(options.metrics_listen + " is in use"));
}

TEST(ServerTest, BadStartsSayWhy) {
  ServeOptions options = TinyOptions();
  options.model_directory = "/nonexistent";
  EXPECT_THAT(std::string(Server::Start(options, nullptr).status().message()),
              HasSubstr("/nonexistent"));
  options = TinyOptions();
  options.device.activations = "bf16";
  EXPECT_THAT(std::string(Server::Start(options, nullptr).status().message()),
              HasSubstr("only fp32"));
  std::string why;
  if (CreateCudaBackend({}, &why) == nullptr) {
    EXPECT_NE(why, "");
    options = TinyOptions();
    options.device.device = "cuda";
    EXPECT_THAT(std::string(Server::Start(options, nullptr).status().message()),
                AllOf(HasSubstr("--device cuda"), HasSubstr(why)));
  }
}

TEST(ServerTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  TestServer server;
  grpc::ClientContext context, idle_context;
  const auto running = server.generation()->Generate(&context, TextRequest("x", 2000));
  v1::GenerateResponse message;
  Answer answer;
  ASSERT_TRUE(running->Read(&message));
  answer.Add(message);
  const auto idle = server.generation()->Stream(&idle_context);
  v1::StreamRequest config;
  config.mutable_config();
  idle->Write(config);
  std::thread drain([&server] { server.server().Drain(); });
  v1::StreamResponse nothing;
  EXPECT_FALSE(idle->Read(&nothing));
  EXPECT_EQ(idle->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(server.Generate(TextRequest("x", 1)).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
  while (running->Read(&message)) {
    answer.Add(message);
  }
  EXPECT_TRUE(running->Finish().ok());
  EXPECT_EQ(answer.tokens.size(), 2000u);
  drain.join();
  int code = 0;
  server.Http("/readyz", &code);
  EXPECT_EQ(code, 503);
}

TEST(ServerTest, DrainHasALimit) {
  ServeOptions options = TinyOptions();
  options.drain_timeout_seconds = 0.2;
  TestServer server(options);
  grpc::ClientContext context;
  const auto running = server.generation()->Generate(&context, TextRequest("x", 100'000'000));
  v1::GenerateResponse message;
  ASSERT_TRUE(running->Read(&message));
  std::thread drain([&server] { server.server().Drain(); });
  while (running->Read(&message)) {
  }
  EXPECT_EQ(running->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  drain.join();
}

}  // namespace
}  // namespace evenflow
