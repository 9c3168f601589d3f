#include "server/models_service.h"

#include <string>
#include <utility>
#include <vector>

#include "engine/utf8.h"
#include "server/request.h"
#include "server/status.h"

#include "absl/strings/str_cat.h"

namespace evenflow {

namespace {

absl::Status NeedsTokenizer(const Serving& serving, const std::string& model) {
  if (absl::Status status = serving.CheckModel(model); !status.ok()) {
    return status;
  }
  if (serving.tokenizer == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("model \"", serving.model_name, "\" has no tokenizer"));
  }
  return absl::OkStatus();
}

absl::Status TokenizeText(const Serving& serving, const v1::TokenizeRequest& request,
                          v1::TokenizeResponse* response) {
  if (const size_t valid = ValidUtf8Prefix(request.text()); valid < request.text().size()) {
    return BadField("text", absl::StrCat("not UTF-8 at byte ", valid), "UTF-8");
  }
  absl::StatusOr<std::vector<int32_t>> tokens =
      serving.tokenizer->Encode(request.text(), {.add_special = false});
  if (!tokens.ok()) {
    return tokens.status();
  }
  if (request.add_special_tokens() && serving.bos_token.has_value()) {
    response->add_token_ids(*serving.bos_token);
  }
  response->mutable_token_ids()->Add(tokens->begin(), tokens->end());
  return absl::OkStatus();
}

absl::Status DetokenizeIds(const Serving& serving, const v1::DetokenizeRequest& request,
                           v1::DetokenizeResponse* response) {
  const int vocab = serving.engine->model().info().vocab_size;
  std::vector<int32_t> ids;
  for (int i = 0; i < request.token_ids_size(); ++i) {
    const int32_t id = request.token_ids(i);
    if (id < 0 || id >= vocab) {
      return BadField(absl::StrCat("token_ids[", i, "]"), absl::StrCat(id),
                      absl::StrCat("0 to ", vocab - 1, ", the ids of the model's vocabulary"));
    }
    // Models pad their vocabulary: such ids have no text.
    if (id < serving.tokenizer->vocab_size()) {
      ids.push_back(id);
    }
  }
  absl::StatusOr<std::string> text = serving.tokenizer->Decode(ids, request.skip_special_tokens());
  if (!text.ok()) {
    return text.status();
  }
  response->set_text(*std::move(text));
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* ModelsService::Get(grpc::CallbackServerContext* context,
                                             const v1::GetModelRequest* request,
                                             v1::Model* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status status = serving_.CheckModel(request->model());
  if (status.ok()) {
    const Forwarder& model = serving_.engine->model();
    const ModelInfo& info = model.info();
    response->set_name(serving_.model_name);
    response->set_model_type(info.model_type);
    response->set_parameters(info.parameters);
    response->set_vocab_size(info.vocab_size);
    response->mutable_memories()->Add(info.memories.begin(), info.memories.end());
    response->set_state_bytes_per_session(static_cast<int64_t>(model.slot_bytes()));
    response->set_window(model.window().commit);
    response->mutable_eos_token_ids()->Add(info.eos_tokens.begin(), info.eos_tokens.end());
    if (serving_.bos_token.has_value()) {
      response->set_bos_token_id(*serving_.bos_token);
    }
    response->set_has_tokenizer(serving_.tokenizer != nullptr);
    response->set_max_prompt_tokens(serving_.engine->options().max_prompt_tokens);
    response->set_device(serving_.device);
  }
  reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* ModelsService::Tokenize(grpc::CallbackServerContext* context,
                                                  const v1::TokenizeRequest* request,
                                                  v1::TokenizeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  serving_.tokenizing->Add([this, reactor, request, response] {
    absl::Status status = NeedsTokenizer(serving_, request->model());
    if (status.ok()) {
      status = TokenizeText(serving_, *request, response);
    }
    reactor->Finish(ToGrpc(status));
  });
  return reactor;
}

grpc::ServerUnaryReactor* ModelsService::Detokenize(grpc::CallbackServerContext* context,
                                                    const v1::DetokenizeRequest* request,
                                                    v1::DetokenizeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  serving_.tokenizing->Add([this, reactor, request, response] {
    absl::Status status = NeedsTokenizer(serving_, request->model());
    if (status.ok()) {
      status = DetokenizeIds(serving_, *request, response);
    }
    reactor->Finish(ToGrpc(status));
  });
  return reactor;
}

}  // namespace evenflow
