// From the tokens of one response to the messages that its client gets: incremental detokenizing,
// stop strings, logprobs, timings. Owned by a gRPC call; used by one thread at a time.
#ifndef EVENFLOW_SERVER_TOKEN_STREAM_H_
#define EVENFLOW_SERVER_TOKEN_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/outbox.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/wiped.h"
#include "server/metrics.h"

#include "absl/status/status.h"
#include "evenflow/v1/generation.pb.h"

namespace evenflow {

struct TextOptions {
  std::vector<std::string> stop;  // not empty ones
  bool include_stop_text = false;
  std::vector<int32_t> stop_tokens;  // their text is not sent
  bool logprobs = false;
};

class TokenStream {
 public:
  enum class Result {
    kNothing,  // no message now
    kPiece,
    kLast,    // a message with `finish`
    kFailed,  // status() tells why; no message
  };

  struct Context {
    const Tokenizer* tokenizer = nullptr;  // null: no text. Outlives the stream
    Metrics* metrics = nullptr;            // outlives the stream
    SteadyTime arrived;
  };

  TokenStream(const Context& context, TextOptions options, std::shared_ptr<Outbox> outbox);
  ~TokenStream();  // overwrites the text
  TokenStream(const TokenStream&) = delete;
  TokenStream& operator=(const TokenStream&) = delete;

  // Takes what the outbox has and puts into *message all that may be sent now. *message must be
  // clear; request_id and the like are left to the caller. Nothing more comes after kLast, kFailed.
  Result Next(v1::GenerateResponse* message);

  const absl::Status& status() const { return status_; }

  Outbox& outbox() { return *outbox_; }

 private:
  // A token that was taken and not sent.
  struct Held {
    SampledToken sampled;
    int64_t position = 0;
    size_t text_end = 0;  // of its text in text_; kOpen while its last character is incomplete
  };

  // A stop string: text_[begin, end).
  struct Match {
    size_t begin = 0;
    size_t end = 0;
    size_t stop = 0;  // index in options_.stop
  };

  static constexpr size_t kOpen = ~size_t{0};

  void Observe(const TokenEvent& event);
  void Add(const TokenEvent& event);
  // The first stop string completed by text_[from, ...); the longest of those that end together.
  std::optional<Match> FindStop(size_t from) const;
  // Where the text begins that could still become a stop string.
  size_t StopStart() const;
  void Stop(const Match& match);
  // Moves the tokens whose text ends at or before `end` into the message.
  void Release(size_t end, v1::GenerateResponse* message);
  // Nothing more comes: half a character becomes U+FFFD, the begin of a stop string is just text.
  void ReleaseAll(v1::GenerateResponse* message);
  void Finish(const FinishEvent& finish, v1::GenerateResponse* message);

  const Context context_;
  const TextOptions options_;
  const std::shared_ptr<Outbox> outbox_;
  std::optional<IncrementalDecoder> decoder_;
  TokenEvents events_;
  std::deque<Held, WipingAllocator<Held>> held_;
  std::string text_;      // of the tokens held, and what a part of a token has given so far
  int64_t taken_ = 0;     // generated tokens
  int64_t released_ = 0;  // of these, in messages
  SteadyTime last_token_;
  std::optional<Match> match_;
  std::vector<int32_t> tail_;  // the visible text before the stop string, tokenized anew
  size_t tail_end_ = 0;        // its end in text_
  absl::Status status_;
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_TOKEN_STREAM_H_
