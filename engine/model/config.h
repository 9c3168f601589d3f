// Typed access to a model's config.json. The first error sticks: callers read all they need, then
// ask status(). Owned by the loading thread.
#ifndef EVENFLOW_ENGINE_MODEL_CONFIG_H_
#define EVENFLOW_ENGINE_MODEL_CONFIG_H_

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace evenflow {

class Config {
 public:
  // `source` begins every error message: the file's name. INVALID_ARGUMENT when the text is not one
  // JSON object.
  static absl::StatusOr<Config> Parse(const std::string& text, std::string source);

  // Whether the field is there with a value other than null.
  bool Has(absl::string_view field) const;
  // Whether the field is there and null.
  bool IsNull(absl::string_view field) const;
  bool IsText(absl::string_view field, absl::string_view text) const;

  // The field's value, or `fallback` where it is absent or null. Values of the wrong type or
  // outside [min, max] are errors.
  int Int(absl::string_view field, int fallback, int min = 1, int max = 1 << 24);
  // Also reads Infinity, bare or as {"__float__": "Infinity"}.
  double Float(absl::string_view field, double fallback, double min, double max);
  // A list of as many such numbers as the fallback.
  std::vector<double> Floats(absl::string_view field, std::vector<double> fallback, double min,
                             double max);
  // That of `layer`, where the field is a list with one integer for each of so many layers; or Int.
  int LayerInt(absl::string_view field, int layer, int layers, int fallback, int max = 1 << 24);
  bool Bool(absl::string_view field, bool fallback);
  // One of `allowed`.
  std::string Text(absl::string_view field, absl::string_view fallback,
                   std::initializer_list<absl::string_view> allowed);
  // A token id, a list of them, or null.
  std::vector<int32_t> Tokens(absl::string_view field, std::initializer_list<int32_t> fallback);

  // A list of integers; an error where the field is absent.
  std::vector<int> Ints(absl::string_view field, int min, int max);
  // The field's object, or its list of objects, each as a config whose errors name it; empty where
  // it is absent or null. Their errors are theirs: see Update.
  std::vector<Config> Objects(absl::string_view field);

  // `field`, unless the file has it by its `old` name only.
  absl::string_view NameOf(absl::string_view field, absl::string_view old) const;

  // One JSON object of what was read so far: each field with its value, or what stood in for it.
  const nlohmann::json& read() const { return read_; }

  // Records another's error.
  void Update(const absl::Status& status) { status_.Update(status); }

  // Records an error unless the field is absent, null or false: "FIELD is VALUE; REASON".
  void Refuse(absl::string_view field, absl::string_view reason);
  // Records an error about a field: "FIELD is VALUE; EXPECTED".
  void Fail(absl::string_view field, absl::string_view expected);

  const absl::Status& status() const { return status_; }

 private:
  Config(nlohmann::json root, std::string source);
  const nlohmann::json* Find(absl::string_view field) const;  // nullptr: absent or null
  template <class T>
  T Note(absl::string_view field, T value);  // notes and returns what a field stands for

  nlohmann::json root_;
  nlohmann::json read_ = nlohmann::json::object();
  std::string source_;
  absl::Status status_;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_CONFIG_H_
