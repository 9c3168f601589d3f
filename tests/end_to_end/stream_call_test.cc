// The bidirectional stream through real gRPC: order, interrupt, half-close, protocol violations.
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/test_server.h"

namespace evenflow {
namespace {

using ::testing::HasSubstr;

class Exchange {
 public:
  explicit Exchange(const TestServer& server)
      : stub_(server.generation()), stream_(stub_->Stream(&context_)) {}

  void Configure(const std::string& session_id = "") {
    v1::StreamRequest request;
    request.mutable_config()->set_session_id(session_id);
    stream_->Write(request);
  }

  // max_tokens 0: only read.
  void Append(const std::string& text, int64_t max_tokens, bool interrupt = false) {
    v1::StreamRequest request;
    v1::Append* append = request.mutable_append();
    if (!text.empty()) {
      append->mutable_input()->set_text(text);
    }
    append->set_interrupt(interrupt);
    if (max_tokens > 0) {
      append->mutable_generate()->set_max_tokens(max_tokens);
      append->mutable_generate()->set_ignore_eos(true);
      append->mutable_generate()->mutable_sampling()->set_temperature(0);
    }
    stream_->Write(request);
  }

  bool ReadMessage(v1::StreamResponse* message) { return stream_->Read(message); }

  // The next response up to its finish; index -1 when the stream ended.
  int64_t Read(Answer* answer) {
    v1::StreamResponse message;
    *answer = Answer();
    while (stream_->Read(&message)) {
      answer->Add(message.response());
      if (message.response().has_finish()) {
        return message.append_index();
      }
    }
    return -1;
  }

  void HalfClose() { stream_->WritesDone(); }

  grpc::Status Finish() {
    v1::StreamResponse message;
    while (stream_->Read(&message)) {
    }
    return stream_->Finish();
  }

  grpc::ClientContext& context() { return context_; }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<v1::Generation::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamResponse>> stream_;
};

TEST(StreamCallTest, AppendsAreServedInOrder) {
  const TestServer server;
  Exchange exchange(server);
  exchange.Configure();
  exchange.Append("one", 4);
  exchange.Append(" two", 0);
  exchange.Append(" three", 6);
  exchange.HalfClose();
  Answer answer;
  EXPECT_EQ(exchange.Read(&answer), 0);
  EXPECT_EQ(answer.tokens.size(), 4u);
  EXPECT_EQ(answer.finish.reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.position, 7);
  EXPECT_EQ(exchange.Read(&answer), 1);
  EXPECT_EQ(answer.tokens.size(), 0u);
  EXPECT_EQ(answer.finish.reason(), v1::FINISH_REASON_READ);
  EXPECT_EQ(answer.position, 11);
  EXPECT_EQ(exchange.Read(&answer), 2);
  EXPECT_EQ(answer.tokens.size(), 6u);
  EXPECT_EQ(exchange.Read(&answer), -1);
  EXPECT_TRUE(exchange.Finish().ok());
  EXPECT_TRUE(server.WaitForMetric("evenflow_state_slots_used{model_name=\"tiny\"}", 0));
}

TEST(StreamCallTest, AnInterruptEndsTheResponseAndTheNextIsServed) {
  const TestServer server;
  Exchange exchange(server);
  exchange.Configure();
  exchange.Append("on and on", 100'000'000);
  v1::StreamResponse message;
  ASSERT_TRUE(exchange.ReadMessage(&message));
  exchange.Append("stop", 3, /*interrupt=*/true);
  Answer answer;
  EXPECT_EQ(exchange.Read(&answer), 0);
  EXPECT_EQ(answer.finish.reason(), v1::FINISH_REASON_INTERRUPTED);
  EXPECT_EQ(exchange.Read(&answer), 1);
  EXPECT_EQ(answer.tokens.size(), 3u);
  exchange.HalfClose();
  EXPECT_TRUE(exchange.Finish().ok());
}

TEST(StreamCallTest, WhatWaitsBeforeAnInterruptIsOnlyRead) {
  const TestServer server;
  Exchange exchange(server);
  exchange.Configure();
  exchange.Append("on and on", 100'000'000);
  v1::StreamResponse message;
  ASSERT_TRUE(exchange.ReadMessage(&message));
  exchange.Append("ab", 100'000'000);
  exchange.Append("cd", 2, /*interrupt=*/true);
  exchange.HalfClose();
  Answer first, second, third;
  EXPECT_EQ(exchange.Read(&first), 0);
  EXPECT_EQ(exchange.Read(&second), 1);
  EXPECT_EQ(second.finish.reason(), v1::FINISH_REASON_INTERRUPTED);
  EXPECT_EQ(second.finish.usage().prompt_tokens(), 1);
  EXPECT_EQ(second.finish.usage().generated_tokens(), 0);
  EXPECT_EQ(exchange.Read(&third), 2);
  EXPECT_EQ(third.position, first.position + 1 + 1 + 2);  // "ab" and "cd" are one token each
  EXPECT_TRUE(exchange.Finish().ok());
}

TEST(StreamCallTest, InputBeyondTheReadAheadWaits) {
  const TestServer server;
  Exchange exchange(server);
  exchange.Configure();
  constexpr int kAppends = 60;
  for (int i = 0; i < kAppends; ++i) {
    exchange.Append("x", 3);
  }
  exchange.HalfClose();
  Answer answer;
  for (int i = 0; i < kAppends; ++i) {
    ASSERT_EQ(exchange.Read(&answer), i);
    EXPECT_EQ(answer.position, 4 * (i + 1));
  }
  EXPECT_TRUE(exchange.Finish().ok());
}

TEST(StreamCallTest, AppendsAndRequestsGiveTheSameTokens) {
  const TestServer server;
  Exchange exchange(server);
  const std::string session = server.CreateSession();
  exchange.Configure(session);
  exchange.Append("hello", 10);
  Answer streamed;
  ASSERT_EQ(exchange.Read(&streamed), 0);
  v1::GenerateRequest busy = TextRequest("x", 1);
  busy.set_session_id(session);
  EXPECT_EQ(server.Generate(busy).status.error_code(), grpc::StatusCode::ABORTED);
  exchange.HalfClose();
  EXPECT_TRUE(exchange.Finish().ok());
  EXPECT_EQ(server.Generate(TextRequest("hello", 10)).tokens, streamed.tokens);
  EXPECT_EQ(server.Generate(busy).status.error_code(), grpc::StatusCode::OK);
}

TEST(StreamCallTest, CancellingFreesTheSession) {
  const TestServer server;
  const std::string session = server.CreateSession();
  Exchange exchange(server);
  exchange.Configure(session);
  exchange.Append("on and on", 100'000'000);
  v1::StreamResponse message;
  ASSERT_TRUE(exchange.ReadMessage(&message));
  exchange.context().TryCancel();
  EXPECT_EQ(exchange.Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(server.WaitForMetric("evenflow_requests_running{model_name=\"tiny\"}", 0));
}

void ExpectRefused(Exchange* exchange, const std::string& message) {
  const grpc::Status status = exchange->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr(message));
}

TEST(StreamCallTest, TheFirstMessageMustBeConfig) {
  const TestServer server;
  Exchange exchange(server);
  exchange.Append("x", 1);
  ExpectRefused(&exchange, "config");
}

TEST(StreamCallTest, NoMessageAtAllIsRefused) {
  const TestServer server;
  Exchange exchange(server);
  exchange.HalfClose();
  ExpectRefused(&exchange, "config");
}

TEST(StreamCallTest, ASecondConfigIsRefusedAlsoWhileTokensStream) {
  const TestServer server;
  Exchange exchange(server);
  exchange.Configure();
  exchange.Append("on and on", 100'000'000);
  exchange.Configure();
  ExpectRefused(&exchange, "second config");
}

TEST(StreamCallTest, ABadAppendNamesItsField) {
  const TestServer server;
  Exchange exchange(server);
  exchange.Configure();
  exchange.Append("", 3);
  ExpectRefused(&exchange, "append.input");
}

TEST(StreamCallTest, ConfigAloneIsFine) {
  const TestServer server;
  Exchange exchange(server);
  exchange.Configure();
  exchange.HalfClose();
  EXPECT_TRUE(exchange.Finish().ok());
}

}  // namespace
}  // namespace evenflow
