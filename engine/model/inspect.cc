#include "engine/model/inspect.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace evenflow {

std::string InspectJson(const Model& model) {
  const ModelInfo& info = model.info();
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const LayerInfo& layer : model.layers()) {
    layers.push_back({{"memory", layer.memory},
                      {"heads", layer.shape.heads},
                      {"query_heads", layer.shape.query_heads},
                      {"key_dim", layer.shape.key_dim},
                      {"value_dim", layer.shape.value_dim},
                      {"banks", layer.banks},
                      {"detail", layer.detail},
                      {"state_bytes", layer.state_bytes}});
    if (layer.attention_window > 0) {
      layers.back()["attention_window"] = layer.attention_window;
    }
    if (!layer.mode.empty()) {
      layers.back()["mode"] = layer.mode;
      layers.back()["preconditioner_bytes"] = layer.preconditioner_bytes;
    }
  }
  nlohmann::ordered_json root = {{"name", info.name},
                                 {"model_type", info.model_type},
                                 {"parameters", info.parameters},
                                 {"vocab_size", info.vocab_size},
                                 {"hidden_size", info.hidden_size},
                                 {"window", model.window().commit},
                                 {"rollback", model.window().rollback},
                                 {"state_dtype", Name(model.options().state_dtype)},
                                 {"state_bytes_per_session", model.slot_bytes()},
                                 {"options", nlohmann::ordered_json::parse(info.options)},
                                 {"bos_token", nullptr},
                                 {"eos_tokens", info.eos_tokens},
                                 {"layers", std::move(layers)}};
  if (info.bos_token.has_value()) {
    root["bos_token"] = *info.bos_token;
  }
  return root.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string InspectText(const Model& model) {
  const ModelInfo& info = model.info();
  std::string text = absl::StrFormat(
      "%s: %s, %d parameters, %d layers, hidden size %d, vocabulary %d\n"
      "state: %d bytes per session (%s), window %d, rollback %d\n",
      info.name, info.model_type, info.parameters, model.layers().size(), info.hidden_size,
      info.vocab_size, model.slot_bytes(), Name(model.options().state_dtype), model.window().commit,
      model.window().rollback);
  int number = 0;
  for (const LayerInfo& layer : model.layers()) {
    if (layer.attention_window > 0) {
      absl::StrAppendFormat(
          &text,
          "layer %d: %s, %d heads of %d (%d of keys and values), newest %d tokens, %d bytes\n",
          number++, layer.memory, layer.shape.query_heads, layer.shape.key_dim,
          layer.shape.key_heads, layer.attention_window, layer.state_bytes);
      continue;
    }
    absl::StrAppendFormat(
        &text, "layer %d: %s, %d heads of %d x %d", number++,
        layer.mode.empty() ? layer.memory : absl::StrCat(layer.memory, " (", layer.mode, ")"),
        layer.shape.heads, layer.shape.key_dim, layer.shape.value_dim);
    if (layer.banks > 1) {
      absl::StrAppendFormat(&text, ", %d states each", layer.banks);
    }
    absl::StrAppendFormat(&text, ", %d bytes%s%s\n", layer.state_bytes,
                          layer.detail.empty() ? "" : "; ", layer.detail);
  }
  return text;
}

}  // namespace evenflow
