#include "server/request.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "engine/utf8.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace evenflow {

namespace {

uint64_t RandomBits() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

// Whether a range includes its lower end.
enum class Lower { kIncluded, kExcluded };

struct Range {
  float low;
  float high;
  Lower lower = Lower::kIncluded;
};

absl::Status ReadFloat(const std::string& field, float value, Range range, float* out) {
  const bool above = range.lower == Lower::kIncluded ? value >= range.low : value > range.low;
  // A NaN fails both comparisons.
  if (!(above && value <= range.high)) {
    return BadField(field, absl::StrFormat("%g", value),
                    absl::StrFormat("%s%g, %g]", range.lower == Lower::kIncluded ? "[" : "(",
                                    range.low, range.high));
  }
  *out = value;
  return absl::OkStatus();
}

absl::Status CheckToken(const std::string& field, int32_t token, int vocab) {
  if (token < 0 || token >= vocab) {
    return BadField(field, absl::StrCat(token),
                    absl::StrCat("0 to ", vocab - 1, ", the ids of the model's vocabulary"));
  }
  return absl::OkStatus();
}

absl::Status ReadFloats(const std::string& path, const v1::Sampling& from, SamplingParams* to) {
  const struct {
    const char* name;
    bool given;
    float value;
    Range range;
    float* out;
  } fields[] = {
      {"temperature", from.has_temperature(), from.temperature(), {0, 100}, &to->temperature},
      {"top_p", from.has_top_p(), from.top_p(), {0, 1, Lower::kExcluded}, &to->top_p},
      {"min_p", from.has_min_p(), from.min_p(), {0, 1}, &to->min_p},
      {"typical_p",
       from.has_typical_p(),
       from.typical_p(),
       {0, 1, Lower::kExcluded},
       &to->typical_p},
      {"repetition_penalty",
       from.has_repetition_penalty(),
       from.repetition_penalty(),
       {0, 10, Lower::kExcluded},
       &to->repetition_penalty},
      {"frequency_penalty",
       from.has_frequency_penalty(),
       from.frequency_penalty(),
       {-2, 2},
       &to->frequency_penalty},
      {"presence_penalty",
       from.has_presence_penalty(),
       from.presence_penalty(),
       {-2, 2},
       &to->presence_penalty},
      {"penalty_decay",
       from.has_penalty_decay(),
       from.penalty_decay(),
       {0, 1, Lower::kExcluded},
       &to->penalty_decay},
  };

  for (const auto& field : fields) {
    if (!field.given) {
      continue;
    }
    const std::string name = absl::StrCat(path, ".", field.name);
    if (absl::Status status = ReadFloat(name, field.value, field.range, field.out); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status ReadTokenRules(const std::string& path, const v1::Sampling& from, int vocab,
                            SamplingParams* to) {
  if (from.logit_bias_size() > kMaxLogitBiases) {
    return BadField(absl::StrCat(path, ".logit_bias"),
                    absl::StrCat(from.logit_bias_size(), " entries"),
                    absl::StrCat("at most ", kMaxLogitBiases));
  }
  for (int i = 0; i < from.logit_bias_size(); ++i) {
    const v1::LogitBias& bias = from.logit_bias(i);
    const std::string field = absl::StrCat(path, ".logit_bias[", i, "]");
    if (absl::Status status = CheckToken(absl::StrCat(field, ".token_id"), bias.token_id(), vocab);
        !status.ok()) {
      return status;
    }
    float value = 0;
    if (absl::Status status =
            ReadFloat(absl::StrCat(field, ".bias"), bias.bias(), {-100, 100}, &value);
        !status.ok()) {
      return status;
    }
    to->logit_bias.emplace_back(bias.token_id(), value);
  }
  std::sort(to->logit_bias.begin(), to->logit_bias.end());
  for (size_t i = 1; i < to->logit_bias.size(); ++i) {
    if (to->logit_bias[i].first == to->logit_bias[i - 1].first) {
      return BadField(absl::StrCat(path, ".logit_bias"),
                      absl::StrCat("token ", to->logit_bias[i].first, " twice"), "each token once");
    }
  }
  for (int i = 0; i < from.allowed_token_ids_size(); ++i) {
    if (absl::Status status = CheckToken(absl::StrCat(path, ".allowed_token_ids[", i, "]"),
                                         from.allowed_token_ids(i), vocab);
        !status.ok()) {
      return status;
    }
  }
  to->allowed_tokens.assign(from.allowed_token_ids().begin(), from.allowed_token_ids().end());
  std::sort(to->allowed_tokens.begin(), to->allowed_tokens.end());
  to->allowed_tokens.erase(std::unique(to->allowed_tokens.begin(), to->allowed_tokens.end()),
                           to->allowed_tokens.end());
  return absl::OkStatus();
}

absl::Status ReadSampling(const Serving& serving, const std::string& path, const v1::Sampling& from,
                          SamplingParams* to) {
  if (absl::Status status = ReadFloats(path, from, to); !status.ok()) {
    return status;
  }
  if (from.has_top_k()) {
    if (from.top_k() < 0) {
      return BadField(absl::StrCat(path, ".top_k"), absl::StrCat(from.top_k()),
                      ">= 0 (0 considers all tokens)");
    }
    to->top_k = from.top_k();
  }
  if (from.has_penalty_last_n()) {
    const int most = serving.engine->options().history_tokens;
    if (from.penalty_last_n() < -1 || from.penalty_last_n() > most) {
      return BadField(absl::StrCat(path, ".penalty_last_n"), absl::StrCat(from.penalty_last_n()),
                      absl::StrCat("-1 (all that are remembered) to ", most));
    }
    to->penalty_last_n = from.penalty_last_n();
  }
  to->seed = from.has_seed() ? from.seed() : RandomBits();
  return ReadTokenRules(path, from, serving.engine->model().info().vocab_size, to);
}

absl::Status ReadStops(const Serving& serving, const std::string& path,
                       const v1::GenerateOptions& options, EngineRequest* request,
                       TextOptions* text) {
  if (options.stop_size() > kMaxStopStrings) {
    return BadField(absl::StrCat(path, ".stop"), absl::StrCat(options.stop_size(), " strings"),
                    absl::StrCat("at most ", kMaxStopStrings));
  }
  for (int i = 0; i < options.stop_size(); ++i) {
    const std::string& stop = options.stop(i);
    const std::string field = absl::StrCat(path, ".stop[", i, "]");
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return BadField(field, absl::StrCat(stop.size(), " bytes long"),
                      absl::StrCat("1 to ", kMaxStopBytes, " bytes"));
    }
    if (const size_t valid = ValidUtf8Prefix(stop); valid < stop.size()) {
      return BadField(field, absl::StrCat("not UTF-8 at byte ", valid), "UTF-8");
    }
    text->stop.push_back(stop);
  }
  if (!text->stop.empty() && serving.tokenizer == nullptr) {
    return BadField(absl::StrCat(path, ".stop"), "set",
                    "nothing: the model has no tokenizer; use stop_token_ids");
  }
  text->include_stop_text = options.include_stop_text();
  request->has_stop_strings = !text->stop.empty();
  if (options.stop_token_ids_size() > kMaxStopTokens) {
    return BadField(absl::StrCat(path, ".stop_token_ids"),
                    absl::StrCat(options.stop_token_ids_size(), " ids"),
                    absl::StrCat("at most ", kMaxStopTokens));
  }
  const ModelInfo& info = serving.engine->model().info();
  for (int i = 0; i < options.stop_token_ids_size(); ++i) {
    if (absl::Status status = CheckToken(absl::StrCat(path, ".stop_token_ids[", i, "]"),
                                         options.stop_token_ids(i), info.vocab_size);
        !status.ok()) {
      return status;
    }
  }
  request->stop_tokens.assign(options.stop_token_ids().begin(), options.stop_token_ids().end());
  if (!options.ignore_eos()) {
    request->stop_tokens.insert(request->stop_tokens.end(), info.eos_tokens.begin(),
                                info.eos_tokens.end());
  }
  text->stop_tokens = request->stop_tokens;
  return absl::OkStatus();
}

absl::Status ReadCounts(const std::string& path, const v1::GenerateOptions& options,
                        EngineRequest* request, TextOptions* text) {
  request->max_tokens = options.has_max_tokens() ? options.max_tokens() : kDefaultMaxTokens;
  if (request->max_tokens < 1) {
    return BadField(absl::StrCat(path, ".max_tokens"), absl::StrCat(request->max_tokens), ">= 1");
  }
  request->min_tokens = options.min_tokens();
  if (request->min_tokens < 0 || request->min_tokens > request->max_tokens) {
    return BadField(absl::StrCat(path, ".min_tokens"), absl::StrCat(request->min_tokens),
                    absl::StrCat("0 to max_tokens (", request->max_tokens, ")"));
  }
  if (options.has_logprobs()) {
    if (options.logprobs() < 0 || options.logprobs() > kMaxTopLogprobs) {
      return BadField(absl::StrCat(path, ".logprobs"), absl::StrCat(options.logprobs()),
                      absl::StrCat("0 to ", kMaxTopLogprobs));
    }
    request->sampling.top_logprobs = options.logprobs();
    text->logprobs = true;
  }
  if (options.has_prompt_logprobs()) {
    return BadField(absl::StrCat(path, ".prompt_logprobs"), absl::StrCat(options.prompt_logprobs()),
                    "nothing: not yet served");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BadField(const std::string& field, const std::string& value,
                      const std::string& allowed) {
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; allowed: ", allowed));
}

absl::Status Serving::CheckModel(const std::string& model) const {
  if (model.empty() || model == model_name) {
    return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat("model is \"", model.substr(0, 128),
                                          "\"; this server serves \"", model_name, "\""));
}

absl::Status ReadOptions(const Serving& serving, const std::string& path,
                         const v1::GenerateOptions* options, EngineRequest* request,
                         TextOptions* text) {
  request->generate = options != nullptr;
  if (options == nullptr) {
    return absl::OkStatus();
  }
  if (absl::Status status = ReadCounts(path, *options, request, text); !status.ok()) {
    return status;
  }
  if (absl::Status status = ReadStops(serving, path, *options, request, text); !status.ok()) {
    return status;
  }
  if (absl::Status status = ReadSampling(serving, absl::StrCat(path, ".sampling"),
                                         options->sampling(), &request->sampling);
      !status.ok()) {
    return status;
  }
  return ValidateSampling(request->sampling, serving.engine->model().info().vocab_size);
}

absl::StatusOr<std::vector<int32_t>> ReadInput(const Serving& serving, const std::string& path,
                                               const v1::Input& input, int64_t position) {
  std::vector<int32_t> tokens;
  if (input.has_token_ids()) {
    const auto& ids = input.token_ids().ids();
    const int vocab = serving.engine->model().info().vocab_size;
    for (int i = 0; i < ids.size(); ++i) {
      if (absl::Status status =
              CheckToken(absl::StrCat(path, ".token_ids.ids[", i, "]"), ids[i], vocab);
          !status.ok()) {
        return status;
      }
    }
    tokens.assign(ids.begin(), ids.end());
  } else if (input.has_text() && !input.text().empty()) {
    const std::string field = absl::StrCat(path, ".text");
    if (const size_t valid = ValidUtf8Prefix(input.text()); valid < input.text().size()) {
      return BadField(field, absl::StrCat("not UTF-8 at byte ", valid), "UTF-8");
    }
    if (serving.tokenizer == nullptr) {
      return BadField(field, "set", "nothing: the model has no tokenizer; send token_ids");
    }
    absl::StatusOr<std::vector<int32_t>> encoded =
        serving.tokenizer->Encode(input.text(), {.add_special = false});
    if (!encoded.ok()) {
      return absl::Status(encoded.status().code(),
                          absl::StrCat(field, ": ", encoded.status().message()));
    }
    tokens = *std::move(encoded);
    // A client that wrote the token itself does not get it twice.
    const auto& bos = serving.bos_token;
    if (position == 0 && bos.has_value() && (tokens.empty() || tokens.front() != *bos)) {
      tokens.insert(tokens.begin(), *bos);
    }
  }
  const int64_t most = serving.engine->options().max_prompt_tokens;
  if (static_cast<int64_t>(tokens.size()) > most) {
    return BadField(path, absl::StrCat(tokens.size(), " tokens long"),
                    absl::StrCat("at most ", most, " tokens"));
  }
  return tokens;
}

absl::Status CheckRequestId(const std::string& request_id) {
  if (request_id.size() > kMaxRequestIdBytes) {
    return BadField("request_id", absl::StrCat(request_id.size(), " bytes long"),
                    absl::StrCat("at most ", kMaxRequestIdBytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckPriority(std::optional<int32_t> priority) {
  if (priority.has_value() && (*priority < -kMaxPriority || *priority > kMaxPriority)) {
    return BadField("priority", absl::StrCat(*priority),
                    absl::StrCat(-kMaxPriority, " to ", kMaxPriority));
  }
  return absl::OkStatus();
}

absl::Status CheckExpectedPosition(std::optional<int64_t> position) {
  if (position.has_value() && *position < 0) {
    return BadField("expected_position", absl::StrCat(*position), ">= 0");
  }
  return absl::OkStatus();
}

std::string RandomName(int bits) {
  std::string name;
  for (int i = 0; i < bits; i += 64) {
    absl::StrAppendFormat(&name, "%016x", RandomBits());
  }
  return name;
}

}  // namespace evenflow
