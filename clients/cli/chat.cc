#include "clients/cli/chat.h"

#include <atomic>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include <unistd.h>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/request_flags.h"
#include "evenflow/v1/generation.grpc.pb.h"

namespace evenflow {
namespace {

constexpr char kHelp[] =
    "Each line is read by the model, which then goes on; an empty line lets it go on from where it "
    "stopped.\n/stats shows what the session has read and written, /exit (or end of input) leaves, "
    "Ctrl-C ends an answer.\n";

// One conversation. Turns run on main's thread, OnInterrupt on the watcher's.
class Chat {
 public:
  explicit Chat(const ChatCommand& flags)
      : flags_(flags), channel_(OpenChannel(flags.connection.server)) {
    SetDeadline(flags.connection, context_);
    stream_ = v1::Generation::NewStub(channel_)->Stream(&context_);
    v1::StreamRequest first;
    *first.mutable_config() = flags.config;
    first.mutable_config()->set_model(flags.connection.model);
    stream_->Write(first);
  }

  // False when the stream is over.
  bool Turn(const std::string& line) {
    v1::Append append;
    *append.mutable_generate() = flags_.options;
    if (!line.empty()) {
      append.mutable_input()->set_text((position_ > 0 ? "\n" : "") + line + "\n");
    }
    if (!Send(append)) {
      return false;
    }
    v1::StreamResponse message;
    while (stream_->Read(&message)) {
      std::cout << message.response().text() << std::flush;
      position_ = message.response().position();
      if (message.response().has_finish() && Finished(message)) {
        std::cout << std::endl;
        return true;
      }
    }
    return false;
  }

  // Ends the answer; where there is none, the program.
  void OnInterrupt() {
    v1::Append append;
    append.set_interrupt(true);
    if (!Interruptible() || !Send(append)) {
      context_.TryCancel();
      std::cerr << std::endl;
      std::_Exit(kExitInterrupted);
    }
  }

  void PrintStats() const {
    std::cerr << absl::StrFormat("session %s: position %d, %d tokens read, %d written\n",
                                 session_id_.empty() ? "(ends with this chat)" : session_id_,
                                 position_, prompt_tokens_, generated_tokens_);
    if (last_.has_usage()) {
      std::cerr << absl::StrFormat(
          "last answer: %d tokens, first after %.2f ms, all after %.2f ms, %s\n",
          last_.usage().generated_tokens(), last_.timings().first_token_seconds() * 1e3,
          last_.timings().total_seconds() * 1e3, v1::FinishReason_Name(last_.reason()));
    }
  }

  // Half-closes the stream and returns the exit code.
  int End() {
    stream_->WritesDone();
    v1::StreamResponse rest;
    while (stream_->Read(&rest)) {
    }
    const grpc::Status status = stream_->Finish();
    if (status.ok()) {
      return 0;
    }
    std::cerr << "evenflow: " << Explain(status, flags_.connection.server, *channel_) << '\n';
    return 1;
  }

  bool started() const { return position_ > 0; }

 private:
  bool Send(const v1::Append& append) {
    absl::MutexLock lock(&mutex_);
    v1::StreamRequest request;
    *request.mutable_append() = append;
    ++appends_;
    answering_ = !append.interrupt();
    return stream_->Write(request);
  }

  bool Interruptible() {
    absl::MutexLock lock(&mutex_);
    return answering_;
  }

  // True if nothing that was sent is left to be answered.
  bool Finished(const v1::StreamResponse& message) {
    if (message.response().finish().reason() != v1::FINISH_REASON_READ) {
      last_ = message.response().finish();
      prompt_tokens_ += last_.usage().prompt_tokens();
      generated_tokens_ += last_.usage().generated_tokens();
      session_id_ = message.response().session_id();
    }
    absl::MutexLock lock(&mutex_);
    if (message.append_index() + 1 < appends_) {
      return false;
    }
    answering_ = false;
    return true;
  }

  const ChatCommand& flags_;
  std::shared_ptr<grpc::Channel> channel_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamResponse>> stream_;

  // main's thread only
  int64_t position_ = 0;
  int64_t prompt_tokens_ = 0;
  int64_t generated_tokens_ = 0;
  std::string session_id_;
  v1::Finish last_;

  absl::Mutex mutex_;
  int64_t appends_ ABSL_GUARDED_BY(mutex_) = 0;
  bool answering_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

void AddChatCommand(CLI::App& command, ChatCommand& flags) {
  AddConnectionFlags(command, flags.connection);
  v1::StreamConfig& config = flags.config;
  command.add_option_function<std::string>(
      "--session", [&config](const std::string& id) { config.set_session_id(id); },
      "Continue this session and keep it");
  AddGenerateFlags(command, flags.options);
}

int RunChat(ChatCommand flags) {
  std::optional<Chat> chat;  // outlives the interrupt that may call it
  std::atomic<Chat*> talking = nullptr;
  Interrupt interrupt([&talking] {
    if (Chat* current = talking.load()) {
      current->OnInterrupt();
    }
  });
  talking.store(&chat.emplace(flags));
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) {
    std::cerr << kHelp;
  }
  std::string line;
  while (true) {
    if (terminal) {
      std::cerr << "> ";
    }
    if (!std::getline(std::cin, line) || line == "/exit") {
      return chat->End();
    }
    if (line == "/stats") {
      chat->PrintStats();
    } else if (line == "/help") {
      std::cerr << kHelp;
    } else if (line.empty() && !chat->started()) {
      continue;
    } else if (!chat->Turn(line)) {
      return chat->End();
    }
  }
}

}  // namespace evenflow
