// Generate through real gRPC: streaming, sessions, seeds, stop strings, batches, cancellation.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/byte_tokenizer.h"
#include "tests/support/test_server.h"

namespace evenflow {
namespace {

constexpr char kSlotsUsed[] = "evenflow_state_slots_used{model_name=\"tiny\"}";

// Only letters and merged tokens, so that the text is readable.
void OnlyLetters(v1::GenerateRequest* request) {
  v1::Sampling* sampling = request->mutable_options()->mutable_sampling();
  for (int letter = 'a'; letter <= 'z'; ++letter) {
    sampling->add_allowed_token_ids(letter);
  }
  for (size_t i = 0; i < MergedTokens().size(); ++i) {
    sampling->add_allowed_token_ids(kFirstMergedToken + static_cast<int32_t>(i));
  }
}

v1::GenerateRequest Seeded(const std::string& prompt, int max_tokens, uint64_t seed) {
  v1::GenerateRequest request = TextRequest(prompt, max_tokens);
  request.mutable_options()->mutable_sampling()->set_temperature(1);
  request.mutable_options()->mutable_sampling()->set_seed(seed);
  request.mutable_options()->set_logprobs(0);
  OnlyLetters(&request);
  return request;
}

TEST(GenerateTest, StreamsTokensTextAndOneFinish) {
  const TestServer server;
  v1::GenerateRequest request = TextRequest("hello", 20);
  request.set_request_id("mine");
  grpc::ClientContext context;
  const auto reader = server.generation()->Generate(&context, request);
  v1::GenerateResponse message;
  Answer answer;
  int finishes = 0;
  while (reader->Read(&message)) {
    EXPECT_EQ(message.request_id(), "mine");
    finishes += message.has_finish() ? 1 : 0;
    answer.Add(message);
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(finishes, 1);
  EXPECT_EQ(answer.tokens.size(), 20u);
  EXPECT_EQ(answer.position, 25);
  EXPECT_EQ(answer.finish.reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.finish.usage().prompt_tokens(), 5);
  EXPECT_EQ(answer.finish.usage().generated_tokens(), 20);
  EXPECT_GT(answer.finish.timings().first_token_seconds(), 0);
  EXPECT_GE(answer.finish.timings().total_seconds(), answer.finish.timings().first_token_seconds());
}

TEST(GenerateTest, SeedsReproduceAndDiffer) {
  const TestServer server;
  const Answer one = server.Generate(Seeded("abc", 30, 1));
  ASSERT_TRUE(one.status.ok()) << one.status.error_message();
  EXPECT_EQ(one.finish.seed(), 1u);
  EXPECT_EQ(server.Generate(Seeded("abc", 30, 1)).tokens, one.tokens);
  EXPECT_NE(server.Generate(Seeded("abc", 30, 2)).tokens, one.tokens);
  v1::GenerateRequest unseeded = Seeded("abc", 30, 0);
  unseeded.mutable_options()->mutable_sampling()->clear_seed();
  const Answer random = server.Generate(unseeded);
  EXPECT_EQ(server.Generate(Seeded("abc", 30, random.finish.seed())).tokens, random.tokens);
}

TEST(GenerateTest, ManyStreamsAtOnceAreBitEqualToEachAlone) {
  ServeOptions options = TinyOptions();
  options.engine.max_sessions = 64;
  const TestServer server(options);
  constexpr int kStreams = 64;
  const auto request = [](int i) {
    return i % 2 == 0
               ? Seeded(std::string(static_cast<size_t>(1 + i), 'a'), 24, uint64_t(i))
               : [i] {
                   v1::GenerateRequest greedy = TextRequest("prompt " + std::to_string(i), 24);
                   greedy.mutable_options()->set_logprobs(2);
                   return greedy;
                 }();
  };
  std::vector<Answer> together(kStreams);
  std::vector<std::thread> threads;
  for (int i = 0; i < kStreams; ++i) {
    threads.emplace_back(
        [&, i] { together[static_cast<size_t>(i)] = server.Generate(request(i)); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (int i = 0; i < kStreams; ++i) {
    const Answer alone = server.Generate(request(i));
    const Answer& shared = together[static_cast<size_t>(i)];
    ASSERT_TRUE(shared.status.ok()) << shared.status.error_message();
    EXPECT_EQ(shared.tokens, alone.tokens) << i;
    EXPECT_EQ(shared.text, alone.text) << i;
    EXPECT_EQ(shared.logprobs, alone.logprobs) << i;
  }
  EXPECT_TRUE(server.WaitForMetric(kSlotsUsed, 0));
}

TEST(GenerateTest, ASessionGoesOnWhereItStopped) {
  const TestServer server;
  const Answer whole = server.Generate(Seeded("abc", 40, 7));
  v1::GenerateRequest first = Seeded("abc", 15, 7);
  first.set_session_id(server.CreateSession());
  const Answer begin = server.Generate(first);
  ASSERT_TRUE(begin.status.ok()) << begin.status.error_message();
  v1::GenerateRequest second = Seeded("", 25, 7);
  second.set_session_id(first.session_id());
  second.set_expected_position(begin.position);
  const Answer rest = server.Generate(second);
  ASSERT_TRUE(rest.status.ok()) << rest.status.error_message();
  std::vector<int32_t> tokens = begin.tokens;
  tokens.insert(tokens.end(), rest.tokens.begin(), rest.tokens.end());
  std::vector<float> logprobs = begin.logprobs;
  logprobs.insert(logprobs.end(), rest.logprobs.begin(), rest.logprobs.end());
  EXPECT_EQ(tokens, whole.tokens);
  EXPECT_EQ(logprobs, whole.logprobs);
}

// The session after a stop string is the one that never wrote it.
TEST(GenerateTest, AStopStringLeavesNoTrace) {
  const TestServer server;
  const Answer free = server.Generate(Seeded("seed text", 60, 11));
  ASSERT_TRUE(free.status.ok()) << free.status.error_message();
  ASSERT_GE(free.text.size(), 40u);
  for (const size_t at : {size_t{3}, size_t{17}, size_t{31}}) {
    const std::string stop = free.text.substr(at, 5);
    const size_t found = free.text.find(stop);
    v1::GenerateRequest request = Seeded("seed text", 60, 11);
    request.set_session_id(server.CreateSession());
    request.mutable_options()->add_stop(stop);
    const Answer stopped = server.Generate(request);
    ASSERT_TRUE(stopped.status.ok()) << stopped.status.error_message();
    EXPECT_EQ(stopped.finish.reason(), v1::FINISH_REASON_STOP_STRING);
    EXPECT_EQ(stopped.text, free.text.substr(0, found));
    EXPECT_EQ(stopped.position, 9 + static_cast<int64_t>(stopped.tokens.size()));
    const std::vector<int32_t> prefix(free.tokens.begin(),
                                      free.tokens.begin() + std::ssize(stopped.tokens));
    if (stopped.tokens != prefix || stopped.tokens.empty()) {
      continue;  // the stop string began inside a token: other tokens are remembered
    }
    v1::GenerateRequest shorter = Seeded("seed text", static_cast<int>(prefix.size()), 11);
    shorter.set_session_id(server.CreateSession());
    server.Generate(shorter);
    v1::GenerateRequest more = Seeded("", 20, 3);
    more.set_session_id(request.session_id());
    const Answer after_stop = server.Generate(more);
    more.set_session_id(shorter.session_id());
    const Answer never = server.Generate(more);
    EXPECT_EQ(after_stop.tokens, never.tokens);
    EXPECT_EQ(after_stop.logprobs, never.logprobs);
  }
}

TEST(GenerateTest, CancellingHalfLeavesTheOthersUntouched) {
  ServeOptions options = TinyOptions();
  options.engine.max_sessions = 32;
  const TestServer server(options);
  constexpr int kStreams = 16;
  std::vector<Answer> answers(kStreams);
  std::vector<std::thread> threads;
  for (int i = 0; i < kStreams; ++i) {
    threads.emplace_back([&, i] {
      const v1::GenerateRequest request =
          Seeded("stream", i % 2 == 0 ? 200 : 1'000'000, uint64_t(i));
      if (i % 2 == 0) {
        answers[static_cast<size_t>(i)] = server.Generate(request);
        return;
      }
      grpc::ClientContext context;
      const auto reader = server.generation()->Generate(&context, request);
      v1::GenerateResponse message;
      for (int read = 0; read < i && reader->Read(&message); ++read) {
      }
      context.TryCancel();
      while (reader->Read(&message)) {
      }
      EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (int i = 0; i < kStreams; i += 2) {
    EXPECT_EQ(answers[static_cast<size_t>(i)].tokens,
              server.Generate(Seeded("stream", 200, uint64_t(i))).tokens);
  }
  EXPECT_TRUE(server.WaitForMetric(kSlotsUsed, 0));
  EXPECT_TRUE(server.WaitForMetric("evenflow_requests_running{model_name=\"tiny\"}", 0));
}

TEST(GenerateTest, ADeadlineEndsTheRequest) {
  const TestServer server;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  const auto reader = server.generation()->Generate(&context, TextRequest("x", 100'000'000));
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(server.WaitForMetric(kSlotsUsed, 0));
}

TEST(GenerateTest, TooManyRequestsAreRefusedAtOnce) {
  ServeOptions options = TinyOptions();
  options.engine.max_sessions = 1;
  options.engine.max_queue = 1;
  const TestServer server(options);
  grpc::ClientContext running_context, waiting_context;
  const auto running =
      server.generation()->Generate(&running_context, TextRequest("x", 100'000'000));
  v1::GenerateResponse message;
  ASSERT_TRUE(running->Read(&message));
  const auto waiting = server.generation()->Generate(&waiting_context, TextRequest("x", 5));
  ASSERT_TRUE(server.WaitForMetric("evenflow_requests_waiting{model_name=\"tiny\"}", 1));
  const Answer refused = server.Generate(TextRequest("x", 5));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.status.error_message(), ::testing::HasSubstr("1"));
  running_context.TryCancel();
  while (running->Read(&message)) {
  }
  running->Finish();
  // The one that waited gets the slot.
  Answer answer;
  while (waiting->Read(&message)) {
    answer.Add(message);
  }
  EXPECT_TRUE(waiting->Finish().ok());
  EXPECT_EQ(answer.tokens.size(), 5u);
}

TEST(GenerateTest, ASlowReaderLosesItsStreamAndStallsNobody) {
  ServeOptions options = TinyOptions();
  options.engine.outbox_tokens = 16;
  options.engine.slow_reader_limit = std::chrono::milliseconds(300);
  const TestServer server(options);
  grpc::ClientContext context;
  v1::GenerateRequest request = TextRequest("x", 100'000'000);
  request.mutable_options()->set_logprobs(20);  // large messages fill the flow-control window soon
  const auto slow = server.generation()->Generate(&context, request);
  const std::string ended =
      "evenflow_requests_finished_total{model_name=\"tiny\",reason=\"resource_exhausted\"}";
  EXPECT_EQ(server.Generate(TextRequest("y", 50)).tokens.size(), 50u);
  EXPECT_TRUE(server.WaitForMetric(ended, 1));
  EXPECT_TRUE(server.WaitForMetric(kSlotsUsed, 0));
  v1::GenerateResponse message;
  while (slow->Read(&message)) {
  }
  const grpc::Status status = slow->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("did not read"));
}

}  // namespace
}  // namespace evenflow
