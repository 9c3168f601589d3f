#include "clients/cli/request_flags.h"

#include <cstdint>
#include <string>
#include <vector>

namespace evenflow {
namespace {

// Adds one flag that calls a protobuf setter.
template <class Value, class Message>
void AddField(CLI::App& command, const std::string& flag, Message* message,
              void (Message::*set)(Value), const std::string& help) {
  command.add_option_function<Value>(
      flag, [message, set](const Value& value) { (message->*set)(value); }, help);
}

void AddSamplingFlags(CLI::App& command, v1::GenerateOptions& options) {
  // Getting the mutable message would set it; so the flags do that when they are given.
  const auto add = [&command, &options]<class Value>(const std::string& flag,
                                                     void (v1::Sampling::*set)(Value),
                                                     const std::string& help) {
    command.add_option_function<Value>(
        flag, [&options, set](const Value& value) { (options.mutable_sampling()->*set)(value); },
        help);
  };
  add("--temperature", &v1::Sampling::set_temperature,
      "0 takes the most likely token (server's default 1)");
  add("--seed", &v1::Sampling::set_seed, "Equal seeds give equal streams (default random)");
  add("--top-k", &v1::Sampling::set_top_k, "Consider the K most likely tokens; 0 all");
  add("--top-p", &v1::Sampling::set_top_p,
      "Consider the most likely tokens up to this probability");
  add("--min-p", &v1::Sampling::set_min_p,
      "Drop tokens below this fraction of the most likely one");
  add("--typical-p", &v1::Sampling::set_typical_p,
      "Locally typical sampling up to this probability");
  add("--repetition-penalty", &v1::Sampling::set_repetition_penalty,
      "Above 1: seen tokens less likely");
  add("--frequency-penalty", &v1::Sampling::set_frequency_penalty, "Subtracted per occurrence");
  add("--presence-penalty", &v1::Sampling::set_presence_penalty,
      "Subtracted once a token occurred");
  add("--penalty-decay", &v1::Sampling::set_penalty_decay,
      "An occurrence n tokens ago counts decay^n");
  add("--penalty-last-n", &v1::Sampling::set_penalty_last_n, "Tokens that penalties look back at");
}

}  // namespace

void AddGenerateFlags(CLI::App& command, v1::GenerateOptions& options) {
  AddField(command, "--max-tokens", &options, &v1::GenerateOptions::set_max_tokens,
           "Generate at most N tokens");
  AddField(command, "--min-tokens", &options, &v1::GenerateOptions::set_min_tokens,
           "Do not stop before N tokens");
  AddField(command, "--logprobs", &options, &v1::GenerateOptions::set_logprobs,
           "Report log-probabilities: 0 of the chosen tokens, N also of the N most likely (shown "
           "by --json)");
  command.add_flag_callback(
      "--ignore-eos", [&options] { options.set_ignore_eos(true); },
      "Do not stop at end-of-text tokens");
  command.add_flag_callback(
      "--include-stop-text", [&options] { options.set_include_stop_text(true); },
      "Keep the stop string in the text");
  // One value a flag, taken as it is: "[END]" would otherwise be read as a list.
  command
      .add_option_function<std::vector<std::string>>(
          "--stop",
          [&options](const std::vector<std::string>& strings) {
            for (const std::string& text : strings) {
              options.add_stop(text);
            }
          },
          "Stop before this text; may be repeated")
      ->allow_extra_args(false);
  command
      .add_option_function<std::vector<int32_t>>(
          "--stop-token",
          [&options](const std::vector<int32_t>& ids) {
            options.mutable_stop_token_ids()->Add(ids.begin(), ids.end());
          },
          "Stop at these token ids, separated by commas")
      ->delimiter(',');
  AddSamplingFlags(command, options);
}

}  // namespace evenflow
