// What the gRPC services share. Owned by Server, constant while it serves; thread-safe.
#ifndef EVENFLOW_SERVER_SERVING_H_
#define EVENFLOW_SERVER_SERVING_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "engine/engine.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/metrics.h"
#include "server/workers.h"

#include "absl/status/status.h"

namespace evenflow {

struct Serving {
  Engine* engine = nullptr;
  const Tokenizer* tokenizer = nullptr;  // null: only token ids are served
  Metrics* metrics = nullptr;
  Workers* delivery = nullptr;    // moves tokens to clients
  Workers* tokenizing = nullptr;  // long texts
  std::string model_name;
  std::string device;
  // Put first where text begins a session: what the tokenizer puts before a text, if anything.
  std::optional<int32_t> bos_token;
  bool allow_session_listing = false;
  std::atomic<bool> draining{false};

  // NOT_FOUND unless `model` is empty or the name of the model served.
  absl::Status CheckModel(const std::string& model) const;
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_SERVING_H_
