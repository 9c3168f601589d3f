// The client commands against a scripted service on a real gRPC server: what they send, print and
// return. The service below plays the server's part of the protocol, nothing more.
#include "clients/cli/commands.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iostream>
#include <mutex>
#include <sstream>
#include <thread>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <signal.h>
#include <unistd.h>

#include "evenflow/v1/generation.grpc.pb.h"
#include "evenflow/v1/models.grpc.pb.h"

namespace evenflow {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

// Every thread of this process is to inherit a blocked SIGINT, as those of `evenflow` do.
const int kBlocked = [] {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  return pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}();

// Answers with the tokens 0, 1, ... of text "t0 ", "t1 ", ...; the prompt "busy" is refused and
// "hang" never answers.
class ScriptedGeneration : public v1::Generation::Service {
 public:
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    {
      std::lock_guard<std::mutex> lock(mutex);
      last_request = *request;
    }
    if (request->prompt().text() == "busy") {
      return {grpc::StatusCode::RESOURCE_EXHAUSTED, "no free slot:\nall 4 are taken"};
    }
    while (request->prompt().text() == "hang" && !context->IsCancelled()) {
      hanging = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    for (int64_t i = 0; i < request->options().max_tokens(); ++i) {
      v1::GenerateResponse response;
      response.add_token_ids(static_cast<int32_t>(i));
      response.set_text("t" + std::to_string(i) + " ");
      response.set_position(i + 1);
      writer->Write(response);
    }
    v1::GenerateResponse last;
    last.mutable_finish()->set_reason(v1::FINISH_REASON_LENGTH);
    writer->Write(last);
    return grpc::Status::OK;
  }

  grpc::Status Stream(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::StreamResponse, v1::StreamRequest>* stream) override {
    v1::StreamRequest request;
    for (int64_t index = -1; stream->Read(&request); ++index) {
      if (index < 0) {
        EXPECT_TRUE(request.has_config());
        continue;
      }
      turns.push_back(request.append().input().text());
      v1::StreamResponse answer;
      answer.set_append_index(index);
      answer.mutable_response()->set_text("<" + turns.back() + ">");
      answer.mutable_response()->set_position((index + 1) * 10);
      stream->Write(answer);
      answer.mutable_response()->clear_text();
      v1::Finish& finish = *answer.mutable_response()->mutable_finish();
      finish.set_reason(v1::FINISH_REASON_LENGTH);
      finish.mutable_usage()->set_prompt_tokens(4);
      finish.mutable_usage()->set_generated_tokens(6);
      stream->Write(answer);
    }
    return grpc::Status::OK;
  }

  std::mutex mutex;
  v1::GenerateRequest last_request;
  std::atomic<bool> hanging = false;
  std::vector<std::string> turns;
};

class ScriptedModels : public v1::Models::Service {
  grpc::Status Get(grpc::ServerContext*, const v1::GetModelRequest*, v1::Model* model) override {
    model->set_name("scripted");
    model->set_vocab_size(3);
    model->add_eos_token_ids(1);
    return grpc::Status::OK;
  }
};

class CommandsTest : public ::testing::Test {
 protected:
  CommandsTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&generation_);
    builder.RegisterService(&models_);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }

  ~CommandsTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  // Runs one command line as main does; what it prints is in out_ and err_.
  int Run(std::vector<std::string> arguments, const std::string& input = "") {
    CLI::App app;
    std::function<int()> chosen;
    CLI::App* bench = app.add_subcommand("bench");
    AddClientCommands(app, *bench, chosen);
    arguments.insert(arguments.end(), {"--server", address_});
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes a vector
    app.parse(arguments);

    std::istringstream in(input);
    std::ostringstream out, err;
    auto* old_in = std::cin.rdbuf(in.rdbuf());
    auto* old_out = std::cout.rdbuf(out.rdbuf());
    auto* old_err = std::cerr.rdbuf(err.rdbuf());
    const int code = chosen();
    std::cin.rdbuf(old_in);
    std::cout.rdbuf(old_out);
    std::cerr.rdbuf(old_err);
    std::cin.clear();
    out_ = out.str();
    err_ = err.str();
    return code;
  }

  ScriptedGeneration generation_;
  ScriptedModels models_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::string out_, err_;
};

TEST_F(CommandsTest, GenerateStreamsText) {
  EXPECT_EQ(Run({"generate", "--prompt", "hello", "--max-tokens", "3"}), 0);
  EXPECT_EQ(out_, "t0 t1 t2 ");
  EXPECT_EQ(err_, "");
}

TEST_F(CommandsTest, GenerateSendsEveryFlag) {
  EXPECT_EQ(Run({"generate",
                 "--tokens",
                 "5,6,7",
                 "--max-tokens",
                 "1",
                 "--temperature",
                 "0.5",
                 "--seed",
                 "18446744073709551615",
                 "--top-k",
                 "4",
                 "--top-p",
                 "0.9",
                 "--min-p",
                 "0.1",
                 "--stop",
                 "[END]",
                 "--stop",
                 "a,b",
                 "--stop-token",
                 "1,2",
                 "--session",
                 "mine",
                 "--expected-position",
                 "9",
                 "--ignore-eos",
                 "--logprobs",
                 "2",
                 "--min-tokens",
                 "1",
                 "--priority",
                 "-3",
                 "--model",
                 "m",
                 "--penalty-last-n",
                 "-1"}),
            0);
  const v1::GenerateRequest& sent = generation_.last_request;
  EXPECT_THAT(sent.prompt().token_ids().ids(), ::testing::ElementsAre(5, 6, 7));
  EXPECT_EQ(sent.session_id(), "mine");
  EXPECT_EQ(sent.expected_position(), 9);
  EXPECT_EQ(sent.priority(), -3);
  EXPECT_EQ(sent.model(), "m");
  const v1::GenerateOptions& options = sent.options();
  EXPECT_THAT(options.stop(), ::testing::ElementsAre("[END]", "a,b"));
  EXPECT_THAT(options.stop_token_ids(), ::testing::ElementsAre(1, 2));
  EXPECT_EQ(options.min_tokens(), 1);
  EXPECT_EQ(options.logprobs(), 2);
  EXPECT_TRUE(options.ignore_eos());
  EXPECT_FLOAT_EQ(options.sampling().temperature(), 0.5F);
  EXPECT_EQ(options.sampling().seed(), 18446744073709551615U);
  EXPECT_EQ(options.sampling().top_k(), 4);
  EXPECT_EQ(options.sampling().penalty_last_n(), -1);
  EXPECT_FALSE(options.sampling().has_typical_p());
}

TEST_F(CommandsTest, UnsetFlagsStayUnset) {
  EXPECT_EQ(Run({"generate", "--prompt", "hello"}), 0);
  EXPECT_FALSE(generation_.last_request.options().has_sampling());
  EXPECT_FALSE(generation_.last_request.options().has_max_tokens());
  EXPECT_FALSE(generation_.last_request.has_expected_position());
}

TEST_F(CommandsTest, GenerateReadsStandardInput) {
  EXPECT_EQ(Run({"generate", "--prompt", "-", "--max-tokens", "1"}, "two\nlines\n"), 0);
  EXPECT_EQ(generation_.last_request.prompt().text(), "two\nlines\n");
}

TEST_F(CommandsTest, GenerateJsonIsOneMessageALine) {
  EXPECT_EQ(Run({"generate", "--prompt", "hello", "--max-tokens", "2", "--json"}), 0);
  std::istringstream lines(out_);
  std::vector<nlohmann::json> messages;
  for (std::string line; std::getline(lines, line);) {
    messages.push_back(nlohmann::json::parse(line));
  }
  ASSERT_EQ(messages.size(), 3U);
  EXPECT_EQ(messages[1]["token_ids"], nlohmann::json({1}));
  EXPECT_EQ(messages[1]["text"], "dDEg");  // base64 of "t1 ": protobuf JSON's form of bytes
  EXPECT_EQ(messages[2]["finish"]["reason"], "FINISH_REASON_LENGTH");
}

TEST_F(CommandsTest, ErrorsAreOneLineWithTheCode) {
  EXPECT_EQ(Run({"generate", "--prompt", "busy"}), 1);
  EXPECT_EQ(err_, "evenflow: RESOURCE_EXHAUSTED: no free slot: all 4 are taken\n");
}

TEST_F(CommandsTest, TimeoutEndsTheCall) {
  EXPECT_EQ(Run({"generate", "--prompt", "hang", "--timeout", "0.05"}), 1);
  EXPECT_THAT(err_, HasSubstr("DEADLINE_EXCEEDED"));
}

TEST_F(CommandsTest, ControlCCancels) {
  std::thread presser([this] {
    while (!generation_.hanging) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    kill(getpid(), SIGINT);
  });
  ASSERT_EQ(kBlocked, 0);
  EXPECT_EQ(Run({"generate", "--prompt", "hang"}), 130);
  EXPECT_EQ(err_, "");
  presser.join();
}

TEST_F(CommandsTest, MissingServerSaysWhatToDo) {
  server_->Shutdown();
  EXPECT_EQ(Run({"generate", "--prompt", "hello"}), 1);
  EXPECT_THAT(err_,
              HasSubstr("no server answers at " + address_ + "; start one with `evenflow serve"));
  EXPECT_THAT(err_, EndsWith(")\n"));
}

TEST_F(CommandsTest, ChatTakesTurnsInOrder) {
  EXPECT_EQ(Run({"chat"}, "\none\ntwo\n/stats\n\n/exit\nthree\n"), 0);
  EXPECT_THAT(generation_.turns, ::testing::ElementsAre("one\n", "\ntwo\n", ""));
  EXPECT_EQ(out_, "<one\n>\n<\ntwo\n>\n<>\n");
  EXPECT_THAT(err_, HasSubstr("position 20, 8 tokens read, 12 written"));
}

TEST_F(CommandsTest, ChatWithoutServerFails) {
  server_->Shutdown();
  EXPECT_EQ(Run({"chat"}, "hello\n"), 1);
  EXPECT_THAT(err_, HasSubstr("no server answers"));
}

TEST_F(CommandsTest, BenchReportsVllmKeys) {
  EXPECT_EQ(Run({"bench",       "serve",      "--num-prompts", "20",    "--num-warmups",     "2",
                 "--input-len", "3",          "--output-len",  "5",     "--request-rate",    "500",
                 "--ramp",      "0.02",       "--connections", "2",     "--max-concurrency", "4",
                 "--goodput",   "ttft:60000", "e2el:60000",    "--json"}),
            0);
  const nlohmann::json report = nlohmann::json::parse(out_);
  EXPECT_EQ(report["completed"], 20);
  EXPECT_EQ(report["failed"], 0);
  EXPECT_EQ(report["total_input_tokens"], 60);
  EXPECT_EQ(report["total_output_tokens"], 100);
  EXPECT_EQ(report["max_concurrency"], 4);
  EXPECT_LE(report["max_concurrent_requests"], 4);
  EXPECT_EQ(report["request_rate"], 500);
  EXPECT_EQ(report["request_goodput"], report["request_throughput"]);
  EXPECT_GT(report["duration"], 0);
  for (const char* metric : {"ttft", "tpot", "itl", "e2el"}) {
    for (const char* statistic : {"mean", "median", "std", "p99"}) {
      const std::string key = std::string(statistic) + "_" + metric + "_ms";
      ASSERT_TRUE(report.contains(key)) << key;
    }
  }
  EXPECT_GE(report["mean_e2el_ms"], report["mean_ttft_ms"]);
  for (int32_t id : generation_.last_request.prompt().token_ids().ids()) {
    EXPECT_NE(id, 1) << "an end-of-text token in a random prompt";
  }
}

TEST_F(CommandsTest, BenchRefusesWhatMakesNoSense) {
  EXPECT_EQ(Run({"bench", "serve", "--ramp", "5"}), 1);
  EXPECT_THAT(err_, HasSubstr("--ramp needs a finite --request-rate"));
  EXPECT_EQ(Run({"bench", "serve", "--goodput", "latency:5"}), 1);
  EXPECT_THAT(err_, HasSubstr("latency:5"));
  EXPECT_THROW(Run({"bench", "serve", "--num-prompts", "0"}), CLI::ValidationError);
  EXPECT_THROW(Run({"generate", "--prompt", "a", "--tokens", "1"}), CLI::ExcludesError);
}

}  // namespace
}  // namespace evenflow
