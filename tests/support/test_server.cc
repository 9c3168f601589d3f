#include "tests/support/test_server.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/model/random_checkpoint.h"

#include "tests/support/byte_tokenizer.h"

namespace evenflow {

namespace {

void Require(const absl::Status& status) {
  if (!status.ok()) {
    std::fprintf(stderr, "test server: %s\n", status.ToString().c_str());
    std::abort();
  }
}

struct TinyModel {
  TinyModel() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "evenflow-test-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) {
      std::abort();
    }
    directory = pattern;
    RandomModel size;
    size.hidden_size = 64;
    size.layers = 2;
    size.heads = 2;
    size.vocab_size = 272;
    Require(WriteRandomCheckpoint(directory, RandomConfig(size), 1));
    std::ofstream(directory + "/tokenizer.json") << ByteTokenizerJson();
  }

  ~TinyModel() {
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }

  std::string directory;
};

}  // namespace

const std::string& TinyModelDirectory() {
  static const TinyModel model;
  return model.directory;
}

ServeOptions TinyOptions() {
  ServeOptions options;
  options.model_directory = TinyModelDirectory();
  options.model_name = "tiny";
  options.listen = "127.0.0.1:0";
  options.metrics_listen = "127.0.0.1:0";
  options.device.threads = 1;
  options.engine.max_sessions = 8;
  options.engine.max_queue = 8;
  return options;
}

void Answer::Add(const v1::GenerateResponse& message) {
  ++messages;
  tokens.insert(tokens.end(), message.token_ids().begin(), message.token_ids().end());
  for (const v1::TokenLogprobs& entry : message.logprobs()) {
    logprobs.push_back(entry.logprob());
  }
  text += message.text();
  position = message.position();
  if (message.has_finish()) {
    finish = message.finish();
  }
}

TestServer::TestServer(const ServeOptions& options) {
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(options, nullptr);
  Require(server.status());
  server_ = *std::move(server);
  channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
}

std::unique_ptr<v1::Generation::Stub> TestServer::generation() const {
  return v1::Generation::NewStub(channel_);
}

std::unique_ptr<v1::Sessions::Stub> TestServer::sessions() const {
  return v1::Sessions::NewStub(channel_);
}

std::unique_ptr<v1::Models::Stub> TestServer::models() const {
  return v1::Models::NewStub(channel_);
}

Answer TestServer::Generate(const v1::GenerateRequest& request) const {
  grpc::ClientContext context;
  const auto reader = generation()->Generate(&context, request);
  Answer answer;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    answer.Add(message);
  }
  answer.status = reader->Finish();
  return answer;
}

std::string TestServer::CreateSession() const {
  grpc::ClientContext context;
  v1::Session session;
  const grpc::Status status = sessions()->Create(&context, {}, &session);
  return status.ok() ? session.session_id() : "";
}

std::string TestServer::Http(const std::string& path, int* code) const {
  const std::string& address = server_->metrics_address();
  const int port = std::atoi(address.c_str() + address.rfind(':') + 1);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  std::string answer;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0) {
    const std::string request = "GET " + path + " HTTP/1.0\r\n\r\n";
    if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) > 0) {
      char buffer[4096];
      for (ssize_t n = 0; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
        answer.append(buffer, static_cast<size_t>(n));
      }
    }
  }
  close(fd);
  if (code != nullptr) {
    *code = answer.size() > 12 ? std::atoi(answer.c_str() + 9) : 0;
  }
  const size_t body = answer.find("\r\n\r\n");
  return body == std::string::npos ? "" : answer.substr(body + 4);
}

double TestServer::Metric(const std::string& line) const {
  const std::string text = "\n" + Http("/metrics");
  const size_t at = text.find("\n" + line + " ");
  return at == std::string::npos ? -1 : std::atof(text.c_str() + at + line.size() + 2);
}

bool TestServer::WaitForMetric(const std::string& line, double value) const {
  for (int i = 0; i < 500; ++i) {
    if (Metric(line) == value) {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return false;
}

v1::GenerateRequest TextRequest(const std::string& prompt, int max_tokens) {
  v1::GenerateRequest request;
  request.mutable_prompt()->set_text(prompt);
  request.mutable_options()->set_max_tokens(max_tokens);
  request.mutable_options()->set_ignore_eos(true);
  request.mutable_options()->mutable_sampling()->set_temperature(0);
  return request;
}

}  // namespace evenflow
