#include "engine/tokenizer/fields.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

const nlohmann::json& EmptyOf(nlohmann::json::value_t kind) {
  static const nlohmann::json array = nlohmann::json::array();
  static const nlohmann::json object = nlohmann::json::object();
  return kind == nlohmann::json::value_t::array ? array : object;
}

}  // namespace

Fields::Fields(const nlohmann::json& value, std::string where)
    : value_(value), where_(std::move(where)) {
  if (!value_.is_object()) {
    Fail(absl::StrCat("is a JSON ", value_.type_name(), "; an object is expected")).IgnoreError();
  }
}

absl::Status Fields::Fail(std::string_view what) {
  absl::Status error =
      absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", where_, ": ", std::string(what)));
  if (status_.ok()) {
    status_ = error;
  }
  return error;
}

absl::Status Fields::Unsupported(std::string_view type, std::string_view supported) {
  return Fail(absl::StrCat("\"", std::string(type.substr(0, 200)),
                           "\" is not supported; supported: ", std::string(supported)));
}

const nlohmann::json* Fields::Find(const char* key) const {
  if (!value_.is_object()) {
    return nullptr;
  }
  const auto found = value_.find(key);
  return found == value_.end() || found->is_null() ? nullptr : &*found;
}

const nlohmann::json* Fields::Require(const char* key, const char* kind) {
  const nlohmann::json* found = Find(key);
  if (found == nullptr) {
    Fail(absl::StrCat("\"", key, "\" (", kind, ") is missing")).IgnoreError();
  }
  return found;
}

bool Fields::RequiredBool(const char* key) {
  const nlohmann::json* found = Require(key, "boolean");
  if (found == nullptr || found->is_boolean()) {
    return found != nullptr && found->get<bool>();
  }
  Fail(absl::StrCat("\"", key, "\" is a ", found->type_name(), "; a boolean is expected"))
      .IgnoreError();
  return false;
}

std::string Fields::RequiredString(const char* key) {
  const nlohmann::json* found = Require(key, "string");
  if (found == nullptr || found->is_string()) {
    return found == nullptr ? "" : found->get<std::string>();
  }
  Fail(absl::StrCat("\"", key, "\" is a ", found->type_name(), "; a string is expected"))
      .IgnoreError();
  return "";
}

int64_t Fields::RequiredInteger(const char* key) {
  const nlohmann::json* found = Require(key, "integer");
  if (found == nullptr || found->is_number_integer()) {
    return found == nullptr ? 0 : found->get<int64_t>();
  }
  Fail(absl::StrCat("\"", key, "\" is a ", found->type_name(), "; an integer is expected"))
      .IgnoreError();
  return 0;
}

const nlohmann::json& Fields::RequiredArray(const char* key) {
  const nlohmann::json* found = Require(key, "array");
  if (found != nullptr && found->is_array()) {
    return *found;
  }
  if (found != nullptr) {
    Fail(absl::StrCat("\"", key, "\" is a ", found->type_name(), "; an array is expected"))
        .IgnoreError();
  }
  return EmptyOf(nlohmann::json::value_t::array);
}

const nlohmann::json& Fields::RequiredObject(const char* key) {
  const nlohmann::json* found = Require(key, "object");
  if (found != nullptr && found->is_object()) {
    return *found;
  }
  if (found != nullptr) {
    Fail(absl::StrCat("\"", key, "\" is a ", found->type_name(), "; an object is expected"))
        .IgnoreError();
  }
  return EmptyOf(nlohmann::json::value_t::object);
}

bool Fields::Bool(const char* key, bool fallback) {
  return Find(key) == nullptr ? fallback : RequiredBool(key);
}

std::string Fields::String(const char* key, std::string_view fallback) {
  return Find(key) == nullptr ? std::string(fallback) : RequiredString(key);
}

int64_t Fields::Integer(const char* key, int64_t fallback) {
  return Find(key) == nullptr ? fallback : RequiredInteger(key);
}

std::string Fields::Type() {
  std::string type = RequiredString("type");
  if (status_.ok()) {
    where_ = absl::StrCat(where_, " ", type.substr(0, 200));
  }
  return type;
}

}  // namespace evenflow
