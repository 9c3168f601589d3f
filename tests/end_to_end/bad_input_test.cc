// Every wrong input gets its gRPC code and a message with field, value and what is allowed.
#include <cmath>
#include <functional>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/support/test_server.h"

namespace evenflow {
namespace {

using ::testing::HasSubstr;
using Change = std::function<void(v1::GenerateRequest*)>;

class BadInputTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    ServeOptions options = TinyOptions();
    options.engine.max_prompt_tokens = 100;
    options.max_message_bytes = 4096;
    server_ = new TestServer(options);
  }

  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }

  static void Expect(grpc::StatusCode code, const std::string& message, const Change& change) {
    v1::GenerateRequest request = TextRequest("abc", 1);
    change(&request);
    const grpc::Status status = server_->Generate(request).status;
    EXPECT_EQ(status.error_code(), code) << message;
    EXPECT_THAT(status.error_message(), HasSubstr(message));
  }

  static void ExpectInvalid(const std::string& message, const Change& change) {
    Expect(grpc::StatusCode::INVALID_ARGUMENT, message, change);
  }

  static void ExpectBadSampling(const std::string& message,
                                const std::function<void(v1::Sampling*)>& change) {
    ExpectInvalid("options.sampling." + message, [&](v1::GenerateRequest* request) {
      change(request->mutable_options()->mutable_sampling());
    });
  }

  static TestServer* server_;
};

TestServer* BadInputTest::server_ = nullptr;

TEST_F(BadInputTest, Prompts) {
  ExpectInvalid("prompt is empty", [](auto* r) { r->mutable_prompt()->set_text(""); });
  ExpectInvalid("prompt is empty", [](auto* r) { r->clear_prompt(); });
  ExpectInvalid("prompt.text is not UTF-8 at byte 1",
                [](auto* r) { r->mutable_prompt()->set_text("a\xFF"); });
  ExpectInvalid("prompt is 101 tokens long; allowed: at most 100 tokens",
                [](auto* r) { r->mutable_prompt()->set_text(std::string(101, 'a')); });
  ExpectInvalid("prompt.token_ids.ids[1] is 272; allowed: 0 to 271", [](auto* r) {
    r->mutable_prompt()->mutable_token_ids()->add_ids(0);
    r->mutable_prompt()->mutable_token_ids()->add_ids(272);
  });
  ExpectInvalid("prompt.token_ids.ids[0] is -1",
                [](auto* r) { r->mutable_prompt()->mutable_token_ids()->add_ids(-1); });
}

TEST_F(BadInputTest, NamesAndPositions) {
  Expect(grpc::StatusCode::NOT_FOUND, "model is \"other\"; this server serves \"tiny\"",
         [](auto* r) { r->set_model("other"); });
  Expect(grpc::StatusCode::NOT_FOUND, "nowhere", [](auto* r) { r->set_session_id("nowhere"); });
  Expect(grpc::StatusCode::FAILED_PRECONDITION, "expected_position is 5",
         [](auto* r) { r->set_expected_position(5); });
  ExpectInvalid("expected_position is -1", [](auto* r) { r->set_expected_position(-1); });
  ExpectInvalid("request_id is 129 bytes long",
                [](auto* r) { r->set_request_id(std::string(129, 'x')); });
  ExpectInvalid("priority is 101; allowed: -100 to 100", [](auto* r) { r->set_priority(101); });
}

TEST_F(BadInputTest, Sampling) {
  ExpectBadSampling("temperature is -1; allowed: [0, 100]",
                    [](auto* s) { s->set_temperature(-1); });
  ExpectBadSampling("temperature is nan", [](auto* s) { s->set_temperature(std::nanf("")); });
  ExpectBadSampling("temperature is inf", [](auto* s) { s->set_temperature(INFINITY); });
  ExpectBadSampling("top_p is 0; allowed: (0, 1]", [](auto* s) { s->set_top_p(0); });
  ExpectBadSampling("top_p is 1.5", [](auto* s) { s->set_top_p(1.5f); });
  ExpectBadSampling("top_k is -1; allowed: >= 0", [](auto* s) { s->set_top_k(-1); });
  ExpectBadSampling("min_p is 2; allowed: [0, 1]", [](auto* s) { s->set_min_p(2); });
  ExpectBadSampling("typical_p is 0; allowed: (0, 1]", [](auto* s) { s->set_typical_p(0); });
  ExpectBadSampling("repetition_penalty is 0; allowed: (0, 10]",
                    [](auto* s) { s->set_repetition_penalty(0); });
  ExpectBadSampling("frequency_penalty is 3; allowed: [-2, 2]",
                    [](auto* s) { s->set_frequency_penalty(3); });
  ExpectBadSampling("presence_penalty is -3", [](auto* s) { s->set_presence_penalty(-3); });
  ExpectBadSampling("penalty_decay is 0; allowed: (0, 1]",
                    [](auto* s) { s->set_penalty_decay(0); });
  ExpectBadSampling("penalty_last_n is -2", [](auto* s) { s->set_penalty_last_n(-2); });
  ExpectBadSampling("logit_bias[0].token_id is 300",
                    [](auto* s) { s->add_logit_bias()->set_token_id(300); });
  ExpectBadSampling("logit_bias[0].bias is 101; allowed: [-100, 100]",
                    [](auto* s) { s->add_logit_bias()->set_bias(101); });
  ExpectBadSampling("logit_bias is token 0 twice", [](auto* s) {
    s->add_logit_bias();
    s->add_logit_bias();
  });
  ExpectBadSampling("allowed_token_ids[0] is 272", [](auto* s) { s->add_allowed_token_ids(272); });
}

TEST_F(BadInputTest, Options) {
  ExpectInvalid("options.max_tokens is 0; allowed: >= 1",
                [](auto* r) { r->mutable_options()->set_max_tokens(0); });
  ExpectInvalid("options.min_tokens is 2; allowed: 0 to max_tokens (1)",
                [](auto* r) { r->mutable_options()->set_min_tokens(2); });
  ExpectInvalid("options.logprobs is 21; allowed: 0 to 20",
                [](auto* r) { r->mutable_options()->set_logprobs(21); });
  ExpectInvalid("options.prompt_logprobs is 1",
                [](auto* r) { r->mutable_options()->set_prompt_logprobs(1); });
  ExpectInvalid("options.stop is 17 strings; allowed: at most 16", [](auto* r) {
    for (int i = 0; i < 17; ++i) {
      r->mutable_options()->add_stop("x");
    }
  });
  ExpectInvalid("options.stop[0] is 0 bytes long; allowed: 1 to 256 bytes",
                [](auto* r) { r->mutable_options()->add_stop(""); });
  ExpectInvalid("options.stop[0] is not UTF-8 at byte 0",
                [](auto* r) { r->mutable_options()->add_stop("\xFF"); });
  ExpectInvalid("options.stop_token_ids[0] is 272",
                [](auto* r) { r->mutable_options()->add_stop_token_ids(272); });
}

TEST_F(BadInputTest, AMessageOverTheLimit) {
  const grpc::Status status = server_->Generate(TextRequest(std::string(5000, 'a'), 1)).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("4096"));
}

TEST_F(BadInputTest, Tokenizing) {
  grpc::ClientContext context;
  v1::TokenizeRequest request;
  request.set_text("\xC3");
  v1::TokenizeResponse response;
  const grpc::Status status = server_->models()->Tokenize(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("text is not UTF-8 at byte 0"));
}

}  // namespace
}  // namespace evenflow
