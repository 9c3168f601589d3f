// Tokens through a real outbox into messages: characters, stop strings, what the session keeps.
#include "server/token_stream.h"

#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "tests/support/byte_tokenizer.h"

namespace evenflow {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

class TokenStreamTest : public ::testing::Test {
 protected:
  TokenStreamTest() : outbox_(std::make_shared<Outbox>([] {})), metrics_("test", {}) {
    auto tokenizer = Tokenizer::FromJson(ByteTokenizerJson());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  void Begin(TextOptions options) {
    stream_ = std::make_unique<TokenStream>(
        TokenStream::Context{tokenizer_.get(), &metrics_, std::chrono::steady_clock::now()},
        std::move(options), outbox_);
  }

  // One token per byte.
  void Push(const std::string& text) {
    for (const char byte : text) {
      PushToken(static_cast<uint8_t>(byte));
    }
  }

  void PushToken(int32_t token) {
    TokenEvent event;
    event.sampled.token = token;
    event.sampled.logprob = -0.5f;
    event.position = ++position_;
    event.step_end = std::chrono::steady_clock::now();
    outbox_->Push(event);
  }

  void End(FinishReason reason, absl::Status status = absl::OkStatus()) {
    FinishEvent finish;
    finish.reason = reason;
    finish.status = std::move(status);
    finish.position = 99;
    outbox_->Finish(finish);
  }

  TokenStream::Result Next() {
    message_.Clear();
    return stream_->Next(&message_);
  }

  std::vector<int32_t> Tokens() const {
    return {message_.token_ids().begin(), message_.token_ids().end()};
  }

  std::vector<int32_t> BytesOf(const std::string& text) const {
    std::vector<int32_t> ids;
    for (const char byte : text) {
      ids.push_back(static_cast<uint8_t>(byte));
    }
    return ids;
  }

  std::shared_ptr<Outbox> outbox_;
  Metrics metrics_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<TokenStream> stream_;
  v1::GenerateResponse message_;
  int64_t position_ = 10;
};

TEST_F(TokenStreamTest, SendsWhatIsThereInOneMessage) {
  Begin({});
  EXPECT_EQ(Next(), TokenStream::Result::kNothing);
  Push("hello");
  EXPECT_EQ(Next(), TokenStream::Result::kPiece);
  EXPECT_EQ(message_.text(), "hello");
  EXPECT_EQ(message_.position(), 15);
  EXPECT_THAT(Tokens(), ElementsAreArray(BytesOf("hello")));
  EXPECT_EQ(Next(), TokenStream::Result::kNothing);
}

TEST_F(TokenStreamTest, NeverSendsHalfACharacterNorItsTokens) {
  Begin({});
  const std::string emoji = "\xF0\x9F\x99\x82";
  Push("a" + emoji.substr(0, 3));
  EXPECT_EQ(Next(), TokenStream::Result::kPiece);
  EXPECT_EQ(message_.text(), "a");
  EXPECT_EQ(message_.token_ids_size(), 1);
  EXPECT_EQ(Next(), TokenStream::Result::kNothing);
  Push(emoji.substr(3));
  EXPECT_EQ(Next(), TokenStream::Result::kPiece);
  EXPECT_EQ(message_.text(), emoji);
  EXPECT_EQ(message_.token_ids_size(), 4);
}

TEST_F(TokenStreamTest, HalfACharacterAtTheEndBecomesAReplacementCharacter) {
  Begin({});
  Push("a\xE2\x82");
  End(FinishReason::kLength);
  EXPECT_EQ(Next(), TokenStream::Result::kLast);
  EXPECT_EQ(message_.text(), "a\xEF\xBF\xBD");
  EXPECT_EQ(message_.token_ids_size(), 3);
  EXPECT_EQ(message_.finish().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(message_.position(), 99);
}

TEST_F(TokenStreamTest, StopTokenIsSentWithoutItsText) {
  TextOptions options;
  options.stop_tokens = {'!'};
  Begin(options);
  Push("hi!");
  End(FinishReason::kStopToken);
  EXPECT_EQ(Next(), TokenStream::Result::kLast);
  EXPECT_EQ(message_.text(), "hi");
  EXPECT_THAT(Tokens(), ElementsAreArray(BytesOf("hi!")));
}

TEST_F(TokenStreamTest, HoldsBackWhatCouldBecomeAStopString) {
  TextOptions options;
  options.stop = {"END"};
  Begin(options);
  Push("aEN");
  EXPECT_EQ(Next(), TokenStream::Result::kPiece);
  EXPECT_EQ(message_.text(), "a");
  EXPECT_EQ(outbox_->Read().checked, 3);
  EXPECT_EQ(outbox_->Read().confirmed, 1);
  Push("x");
  EXPECT_EQ(Next(), TokenStream::Result::kPiece);
  EXPECT_EQ(message_.text(), "ENx");
  EXPECT_EQ(outbox_->Read().confirmed, 4);
}

TEST_F(TokenStreamTest, StopStringOverSeveralTokensIsHidden) {
  TextOptions options;
  options.stop = {"END"};
  Begin(options);
  Push("aEN");
  Next();
  Push("Dzz");  // the engine runs ahead of the check
  EXPECT_EQ(Next(), TokenStream::Result::kNothing);
  ASSERT_TRUE(outbox_->Read().stop.has_value());
  EXPECT_EQ(outbox_->Read().stop->kept, 1);
  EXPECT_THAT(outbox_->Read().stop->tail, IsEmpty());
  End(FinishReason::kStopString);
  EXPECT_EQ(Next(), TokenStream::Result::kLast);
  EXPECT_EQ(message_.text(), "");
  EXPECT_EQ(message_.token_ids_size(), 0);
  EXPECT_EQ(message_.finish().stop_string(), "END");
}

TEST_F(TokenStreamTest, VisibleRestOfASharedTokenIsTokenizedAnew) {
  TextOptions options;
  options.stop = {"d!"};
  Begin(options);
  PushToken('o');
  PushToken(kFirstMergedToken + 4);  // abcd
  PushToken('!');
  EXPECT_EQ(Next(), TokenStream::Result::kPiece);
  EXPECT_EQ(message_.text(), "o");
  ASSERT_TRUE(outbox_->Read().stop.has_value());
  EXPECT_EQ(outbox_->Read().stop->kept, 1);
  EXPECT_THAT(outbox_->Read().stop->tail, ElementsAre(kFirstMergedToken, 'c'));
  End(FinishReason::kStopString);
  EXPECT_EQ(Next(), TokenStream::Result::kLast);
  EXPECT_EQ(message_.text(), "abc");
  EXPECT_THAT(Tokens(), ElementsAre(kFirstMergedToken, 'c'));
}

TEST_F(TokenStreamTest, IncludedStopTextIsSentAndKept) {
  TextOptions options;
  options.stop = {"b"};
  options.include_stop_text = true;
  Begin(options);
  PushToken('o');
  PushToken(kFirstMergedToken + 4);  // abcd
  EXPECT_EQ(Next(), TokenStream::Result::kPiece);
  EXPECT_EQ(message_.text(), "o");
  ASSERT_TRUE(outbox_->Read().stop.has_value());
  EXPECT_EQ(outbox_->Read().stop->kept, 1);
  EXPECT_THAT(outbox_->Read().stop->tail, ElementsAre(kFirstMergedToken));
  End(FinishReason::kStopString);
  EXPECT_EQ(Next(), TokenStream::Result::kLast);
  EXPECT_EQ(message_.text(), "ab");
}

TEST_F(TokenStreamTest, TheStopStringCompletedFirstWinsThenTheLongest) {
  TextOptions options;
  options.stop = {"bcd", "c", "bc"};
  Begin(options);
  Push("abcd");
  EXPECT_EQ(Next(), TokenStream::Result::kPiece);
  EXPECT_EQ(message_.text(), "a");
  End(FinishReason::kStopString);
  EXPECT_EQ(Next(), TokenStream::Result::kLast);
  EXPECT_EQ(message_.finish().stop_string(), "bc");
}

TEST_F(TokenStreamTest, StopStringOfSeveralByteCharacters) {
  TextOptions options;
  options.stop = {"\xC3\xA9!"};
  Begin(options);
  Push("x\xC3\xA9");
  EXPECT_EQ(Next(), TokenStream::Result::kPiece);
  EXPECT_EQ(message_.text(), "x");
  Push("!");
  EXPECT_EQ(Next(), TokenStream::Result::kNothing);
  ASSERT_TRUE(outbox_->Read().stop.has_value());
  EXPECT_EQ(outbox_->Read().stop->kept, 1);
}

TEST_F(TokenStreamTest, BeginOfAStopStringIsSentAtTheEnd) {
  TextOptions options;
  options.stop = {"END"};
  Begin(options);
  Push("aEN");
  End(FinishReason::kLength);
  EXPECT_EQ(Next(), TokenStream::Result::kLast);
  EXPECT_EQ(message_.text(), "aEN");
  EXPECT_EQ(message_.token_ids_size(), 3);
}

TEST_F(TokenStreamTest, TokensBeforeAFailureAreSentBeforeItsStatus) {
  Begin({});
  Push("ab");
  End(FinishReason::kRead, absl::ResourceExhaustedError("slow"));
  EXPECT_FALSE(outbox_->Failure().ok());
  EXPECT_EQ(Next(), TokenStream::Result::kPiece);
  EXPECT_EQ(message_.text(), "ab");
  EXPECT_EQ(Next(), TokenStream::Result::kFailed);
  EXPECT_EQ(stream_->status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(TokenStreamTest, LogprobsComeOncePerToken) {
  TextOptions options;
  options.logprobs = true;
  Begin(options);
  Push("abc");
  EXPECT_EQ(Next(), TokenStream::Result::kPiece);
  ASSERT_EQ(message_.logprobs_size(), 3);
  EXPECT_EQ(message_.logprobs(2).logprob(), -0.5f);
}

}  // namespace
}  // namespace evenflow
