#include "clients/cli/generate.h"

#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>

#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include "absl/strings/str_format.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/request_flags.h"
#include "evenflow/v1/generation.grpc.pb.h"

namespace evenflow {
namespace {

// False once standard output takes no more.
bool Print(const v1::GenerateResponse& response, bool json) {
  std::string text;
  if (json) {
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    if (!google::protobuf::util::MessageToJsonString(response, &text, options).ok()) {
      return false;
    }
    text += '\n';
  } else {
    text = response.text();
  }
  std::cout << text << std::flush;
  return std::cout.good();
}

void PrintStats(const v1::Finish& finish) {
  const v1::Timings& times = finish.timings();
  const double seconds = times.total_seconds() - times.first_token_seconds();
  const auto after_first = static_cast<double>(finish.usage().generated_tokens() - 1);
  std::cerr << absl::StrFormat(
      "%d prompt tokens, %d generated, %s; first after %.2f ms, then %.1f tokens/s; seed %u\n",
      finish.usage().prompt_tokens(), finish.usage().generated_tokens(),
      v1::FinishReason_Name(finish.reason()), times.first_token_seconds() * 1e3,
      seconds > 0 ? after_first / seconds : 0.0, finish.seed());
}

void FillPrompt(GenerateCommand& flags) {
  if (!flags.tokens.empty()) {
    auto& ids = *flags.request.mutable_prompt()->mutable_token_ids()->mutable_ids();
    ids.Add(flags.tokens.begin(), flags.tokens.end());
  } else if (flags.prompt) {
    if (*flags.prompt == "-") {
      flags.prompt->assign(std::istreambuf_iterator<char>(std::cin), {});
    }
    flags.request.mutable_prompt()->set_text(*flags.prompt);
  }
  flags.request.set_model(flags.connection.model);
}

}  // namespace

void AddGenerateCommand(CLI::App& command, GenerateCommand& flags) {
  AddConnectionFlags(command, flags.connection);
  v1::GenerateRequest& request = flags.request;
  auto* prompt = command.add_option("--prompt", flags.prompt,
                                    "Text to continue; - reads it from standard input");
  command.add_option("--tokens", flags.tokens, "Prompt as token ids, separated by commas")
      ->delimiter(',')
      ->excludes(prompt);
  command.add_option_function<std::string>(
      "--session", [&request](const std::string& id) { request.set_session_id(id); },
      "Continue this session and keep it");
  command.add_option_function<int64_t>(
      "--expected-position", [&request](int64_t at) { request.set_expected_position(at); },
      "Fail unless the session is at this position");
  command.add_option_function<int32_t>(
      "--priority", [&request](int32_t priority) { request.set_priority(priority); },
      "Higher goes first, -100 to 100");
  command.add_option_function<std::string>(
      "--request-id", [&request](const std::string& id) { request.set_request_id(id); },
      "Your own name for the request");
  AddGenerateFlags(command, *request.mutable_options());
  command.add_flag("--json", flags.json,
                   "Print each streamed message as one line of protobuf JSON");
  command.add_flag("--stats", flags.stats,
                   "Print token counts and times to standard error at the end");
}

int RunGenerate(GenerateCommand flags) {
  FillPrompt(flags);
  grpc::ClientContext context;
  Interrupt interrupt([&context] { context.TryCancel(); });
  const std::shared_ptr<grpc::Channel> channel = OpenChannel(flags.connection.server);
  const auto stub = v1::Generation::NewStub(channel);
  SetDeadline(flags.connection, context);

  const auto reader = stub->Generate(&context, flags.request);
  v1::GenerateResponse response;
  v1::Finish finish;
  bool printed = true;
  bool mid_line = false;
  while (printed && reader->Read(&response)) {
    printed = Print(response, flags.json);
    finish = response.finish();
    if (!response.text().empty()) {
      mid_line = !flags.json && response.text().back() != '\n';
    }
  }
  if (!printed) {
    context.TryCancel();
  }
  const grpc::Status status = reader->Finish();
  if (mid_line && isatty(STDOUT_FILENO) != 0) {
    std::cout << '\n' << std::flush;
  }
  if (interrupt.Happened()) {
    return kExitInterrupted;
  }
  if (!printed) {
    std::cerr << "evenflow: cannot write to standard output\n";
    return 1;
  }
  if (!status.ok()) {
    std::cerr << "evenflow: " << Explain(status, flags.connection.server, *channel) << '\n';
    return 1;
  }
  if (flags.stats) {
    PrintStats(finish);
  }
  return 0;
}

}  // namespace evenflow
