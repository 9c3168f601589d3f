// Typed reading of one JSON object of a tokenizer.json. Errors stick: the first one is kept, later
// reads give defaults, and status() tells. Used while loading, on one thread.
#ifndef EVENFLOW_ENGINE_TOKENIZER_FIELDS_H_
#define EVENFLOW_ENGINE_TOKENIZER_FIELDS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace evenflow {

class Fields {
 public:
  // `where` names the object in messages: "pre_tokenizer". Keeps a reference to `value`.
  Fields(const nlohmann::json& value, std::string where);

  // Null when the key is absent or its value is null.
  const nlohmann::json* Find(const char* key) const;

  bool Bool(const char* key, bool fallback);
  std::string String(const char* key, std::string_view fallback);
  int64_t Integer(const char* key, int64_t fallback);

  // The value must be there.
  bool RequiredBool(const char* key);
  std::string RequiredString(const char* key);
  int64_t RequiredInteger(const char* key);
  const nlohmann::json& RequiredArray(const char* key);
  const nlohmann::json& RequiredObject(const char* key);

  // Adds the object's "type" to the name in messages and returns it.
  std::string Type();

  const absl::Status& status() const { return status_; }

  const std::string& where() const { return where_; }

  // INVALID_ARGUMENT "tokenizer.json: <where>: <what>", kept as status() if it is the first.
  absl::Status Fail(std::string_view what);

  // Says that the component `type` is not supported and which are.
  absl::Status Unsupported(std::string_view type, std::string_view supported);

 private:
  const nlohmann::json* Require(const char* key, const char* kind);

  const nlohmann::json& value_;
  std::string where_;
  absl::Status status_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_FIELDS_H_
