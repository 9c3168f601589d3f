// What the streaming calls have in common: a gRPC reactor whose events (tokens, writes done,
// cancellation) are handled one at a time. Keeps itself alive until gRPC is done with it.
#ifndef EVENFLOW_SERVER_CALL_H_
#define EVENFLOW_SERVER_CALL_H_

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <grpcpp/server_context.h>

#include "server/actor.h"
#include "server/request.h"
#include "server/serving.h"
#include "server/status.h"
#include "server/token_stream.h"

#include "absl/status/status.h"

namespace evenflow {

// Texts longer than this are tokenized on other threads than gRPC's.
inline constexpr size_t kInlineTextBytes = 4096;

// gRPC's deadline on the steady clock; nothing if the client set none.
std::optional<SteadyTime> DeadlineOf(const grpc::CallbackServerContext& context);
// The peer's address without its port.
std::string ClientOf(const grpc::CallbackServerContext& context);

template <typename Reactor>
class Call : public Actor, public Reactor {
 public:
  Call(const Serving& serving, grpc::CallbackServerContext* context)
      : Actor(*serving.delivery), serving_(serving), context_(context) {}

  // Once, right after construction.
  void Hold() { self_ = shared_from_this(); }

 protected:
  const Serving& serving() const { return serving_; }

  bool cancelled() const { return cancelled_.load(); }

  // Why, once it is.
  absl::Status CancelStatus() const {
    const std::optional<SteadyTime> deadline = DeadlineOf(*context_);
    return deadline.has_value() && *deadline <= std::chrono::steady_clock::now()
               ? absl::DeadlineExceededError("the request's deadline passed")
               : absl::CancelledError("the client cancelled the request");
  }

  // A write is in flight. While it is, tokens stay in the outbox.
  bool writing() const { return writing_.load(); }

  void BeginWrite() { writing_.store(true); }

  TokenStream* tokens() { return tokens_.get(); }

  // Hands the request to the engine; its tokens poke this call.
  absl::Status Submit(SessionLease& lease, EngineRequest request, TextOptions text,
                      SteadyTime arrived) {
    request.deadline = DeadlineOf(*context_);
    request.client = ClientOf(*context_);
    absl::StatusOr<std::shared_ptr<Outbox>> outbox =
        serving_.engine->Submit(lease, std::move(request));
    if (!outbox.ok()) {
      return outbox.status();
    }
    tokens_ = std::make_unique<TokenStream>(
        TokenStream::Context{serving_.tokenizer, serving_.metrics, arrived}, std::move(text),
        *outbox);
    // Every token comes through here, on the engine thread. The write in flight picks up what came
    // meanwhile; only a failure must not wait for a client that does not read.
    (*outbox)->SetOnReady([this, self = shared_from_this(), raw = outbox->get()] {
      if (!writing() || !raw->Failure().ok()) {
        Poke();
      }
    });
    return absl::OkStatus();
  }

  // The response is over.
  void DropTokens() {
    if (tokens_ != nullptr) {
      tokens_->outbox().SetOnReady(nullptr);
      tokens_.reset();
    }
  }

  void OnCancel() override {
    cancelled_.store(true);
    PokeHere();
  }

  void OnWriteDone(bool ok) override {
    writing_.store(false);
    if (!ok) {
      cancelled_.store(true);
    }
    PokeHere();
  }

  void OnDone() override {
    DropTokens();
    self_.reset();
  }

 private:
  const Serving& serving_;
  grpc::CallbackServerContext* const context_;
  std::unique_ptr<TokenStream> tokens_;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> writing_{false};
  std::shared_ptr<Actor> self_;
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_CALL_H_
