// Sessions as objects: they live between requests, on the device or in host memory, until they are
// deleted or have been idle for too long.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "tests/support/test_server.h"

namespace evenflow {
namespace {

using ::testing::HasSubstr;

TEST(SessionsTest, LiveBetweenRequestsUntilDeleted) {
  const TestServer server;
  const auto sessions = server.sessions();
  v1::Session session;
  {
    grpc::ClientContext context;
    v1::CreateSessionRequest request;
    request.set_session_id("my.session-1");
    request.mutable_idle_timeout()->set_seconds(60);
    ASSERT_TRUE(sessions->Create(&context, request, &session).ok());
    EXPECT_EQ(session.position(), 0);
    EXPECT_EQ(session.state_bytes(), 0);
  }
  v1::GenerateRequest request = TextRequest("abc", 5);
  request.set_session_id("my.session-1");
  ASSERT_TRUE(server.Generate(request).status.ok());
  v1::GetSessionRequest get;
  get.set_session_id("my.session-1");
  {
    grpc::ClientContext context;
    ASSERT_TRUE(sessions->Get(&context, get, &session).ok());
    EXPECT_EQ(session.position(), 7);  // "ab", "c" and five more
    EXPECT_GT(session.state_bytes(), 0);
    EXPECT_FALSE(session.busy());
    EXPECT_GT(session.expires().seconds(), session.created().seconds());
  }
  EXPECT_EQ(server.Metric("evenflow_state_slots_used{model_name=\"tiny\"}"), 1);
  {
    grpc::ClientContext context;
    v1::DeleteSessionRequest remove;
    remove.set_session_id("my.session-1");
    v1::DeleteSessionResponse removed;
    EXPECT_TRUE(sessions->Delete(&context, remove, &removed).ok());
  }
  {
    grpc::ClientContext context;
    EXPECT_EQ(sessions->Get(&context, get, &session).error_code(), grpc::StatusCode::NOT_FOUND);
  }
  EXPECT_TRUE(server.WaitForMetric("evenflow_state_slots_used{model_name=\"tiny\"}", 0));
}

TEST(SessionsTest, OneRequestAtATime) {
  const TestServer server;
  v1::GenerateRequest request = TextRequest("abc", 100'000'000);
  request.set_session_id(server.CreateSession());
  grpc::ClientContext context;
  const auto running = server.generation()->Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(running->Read(&message));
  EXPECT_EQ(server.Generate(request).status.error_code(), grpc::StatusCode::ABORTED);
  grpc::ClientContext delete_context;
  v1::DeleteSessionRequest remove;
  remove.set_session_id(request.session_id());
  v1::DeleteSessionResponse removed;
  EXPECT_EQ(server.sessions()->Delete(&delete_context, remove, &removed).error_code(),
            grpc::StatusCode::ABORTED);
  context.TryCancel();
}

TEST(SessionsTest, ExpireWhenIdle) {
  const TestServer server;
  grpc::ClientContext context;
  v1::CreateSessionRequest create;
  create.mutable_idle_timeout()->set_seconds(1);
  v1::Session session;
  ASSERT_TRUE(server.sessions()->Create(&context, create, &session).ok());
  v1::GenerateRequest request = TextRequest("abc", 5);
  request.set_session_id(session.session_id());
  ASSERT_TRUE(server.Generate(request).status.ok());
  EXPECT_TRUE(server.WaitForMetric("evenflow_state_slots_used{model_name=\"tiny\"}", 0));
  EXPECT_EQ(server.Generate(request).status.error_code(), grpc::StatusCode::NOT_FOUND);
}

// What clients of four sessions are told in three rounds, with so many slots and, where they are
// fewer, host memory.
std::vector<Answer> ThreeRounds(int slots) {
  constexpr int kSessions = 4;
  ServeOptions options = TinyOptions();
  options.engine.max_sessions = slots;
  options.engine.host_memory_bytes = slots < kSessions ? 64 << 20 : 0;
  const TestServer server(options);
  std::vector<std::string> ids;
  std::vector<Answer> answers;
  for (int i = 0; i < 3 * kSessions; ++i) {
    if (i < kSessions) {
      ids.push_back(server.CreateSession());
    }
    v1::GenerateRequest request = TextRequest("turn " + std::to_string(i), 20);
    request.set_session_id(ids[static_cast<size_t>(i % kSessions)]);
    answers.push_back(server.Generate(request));
    EXPECT_TRUE(answers.back().status.ok()) << answers.back().status.error_message();
  }
  const auto moved = [&server](const std::string& to) {
    return server.Metric("evenflow_state_moves_total{model_name=\"tiny\",to=\"" + to + "\"}");
  };
  const std::string label = "{model_name=\"tiny\"}";
  EXPECT_EQ(server.Metric("evenflow_state_slots_used" + label), slots);
  EXPECT_EQ(server.Metric("evenflow_host_slots_used" + label), kSessions - slots);
  EXPECT_EQ(moved("host") - moved("device"), kSessions - slots);
  EXPECT_EQ(moved("device") > 0, slots < kSessions);
  EXPECT_EQ(server.Metric("evenflow_host_slots_total" + label) > kSessions, slots < kSessions);
  for (size_t i = 0; i < ids.size(); ++i) {
    v1::GetSessionRequest get;
    get.set_session_id(ids[i]);
    v1::Session session;
    grpc::ClientContext context, delete_context;
    EXPECT_TRUE(server.sessions()->Get(&context, get, &session).ok());
    EXPECT_EQ(session.on_host(), static_cast<int>(i) < kSessions - slots);
    EXPECT_GT(session.state_bytes(), 0);
    v1::DeleteSessionRequest remove;
    remove.set_session_id(ids[i]);
    v1::DeleteSessionResponse removed;
    EXPECT_TRUE(server.sessions()->Delete(&delete_context, remove, &removed).ok());
  }
  EXPECT_TRUE(server.WaitForMetric("evenflow_state_slots_used" + label, 0));
  EXPECT_TRUE(server.WaitForMetric("evenflow_host_slots_used" + label, 0));
  return answers;
}

TEST(SessionsTest, AreMoreThanThereAreSlots) {
  const std::vector<Answer> few = ThreeRounds(2);
  const std::vector<Answer> many = ThreeRounds(4);
  for (size_t i = 0; i < many.size(); ++i) {
    EXPECT_EQ(few[i].tokens, many[i].tokens) << i;
    EXPECT_EQ(few[i].position, many[i].position) << i;
  }
}

TEST(SessionsTest, BadRequests) {
  const TestServer server;
  const auto create = [&server](const v1::CreateSessionRequest& request) {
    grpc::ClientContext context;
    v1::Session session;
    return server.sessions()->Create(&context, request, &session);
  };
  v1::CreateSessionRequest request;
  request.mutable_idle_timeout()->set_seconds(0);
  EXPECT_EQ(create(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(create(request).error_message(), HasSubstr("idle_timeout is 0"));
  request.mutable_idle_timeout()->set_seconds(10);
  request.set_session_id("not ok");
  EXPECT_EQ(create(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_session_id("twice");
  EXPECT_TRUE(create(request).ok());
  EXPECT_EQ(create(request).error_code(), grpc::StatusCode::ALREADY_EXISTS);
}

TEST(SessionsTest, ListingNeedsPermission) {
  ServeOptions options = TinyOptions();
  const auto list = [](const TestServer& server, const std::string& token,
                       v1::ListSessionsResponse* response) {
    grpc::ClientContext context;
    v1::ListSessionsRequest request;
    request.set_page_size(2);
    request.set_page_token(token);
    return server.sessions()->List(&context, request, response);
  };
  v1::ListSessionsResponse response;
  EXPECT_EQ(list(TestServer(options), "", &response).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  options.allow_session_listing = true;
  const TestServer server(options);
  for (int i = 0; i < 3; ++i) {
    server.CreateSession();
  }
  ASSERT_TRUE(list(server, "", &response).ok());
  EXPECT_EQ(response.sessions_size(), 2);
  ASSERT_FALSE(response.next_page_token().empty());
  ASSERT_TRUE(list(server, std::string(response.next_page_token()), &response).ok());
  EXPECT_EQ(response.sessions_size(), 1);
  EXPECT_TRUE(response.next_page_token().empty());
}

}  // namespace
}  // namespace evenflow
