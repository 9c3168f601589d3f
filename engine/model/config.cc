#include "engine/model/config.h"

#include <cmath>
#include <utility>

#include "engine/json.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace evenflow {
namespace {

// Transformers 5 writes what JSON cannot say as an object.
std::optional<double> NumberOf(const nlohmann::json& value) {
  if (value.is_number()) {
    return value.get<double>();
  }
  if (value.is_object() && value.size() == 1 && value.contains("__float__")) {
    const nlohmann::json& text = value["__float__"];
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    if (text == "Infinity") {
      return kInfinity;
    }
    if (text == "-Infinity") {
      return -kInfinity;
    }
  }
  return std::nullopt;
}

nlohmann::json JsonOf(double number) {
  return std::isfinite(number) ? nlohmann::json(number)
                               : nlohmann::json(number > 0 ? "Infinity" : "-Infinity");
}

nlohmann::json JsonOf(const std::vector<double>& numbers) {
  nlohmann::json list = nlohmann::json::array();
  for (const double number : numbers) {
    list.push_back(JsonOf(number));
  }
  return list;
}

nlohmann::json JsonOf(const std::string& text) {
  return text.empty() ? nlohmann::json() : nlohmann::json(text);
}

template <class T>
nlohmann::json JsonOf(T value) {
  return value;
}

}  // namespace

template <class T>
T Config::Note(absl::string_view field, T value) {
  read_[std::string(field)] = JsonOf(value);
  return value;
}

absl::StatusOr<Config> Config::Parse(const std::string& text, std::string source) {
  JsonLimits limits;
  limits.max_bytes = size_t{16} << 20;
  limits.allow_non_finite = true;
  absl::StatusOr<nlohmann::json> root = ParseJson(text, limits);
  if (!root.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", root.status().message()));
  }
  if (!root->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": must be a JSON object"));
  }
  return Config(*std::move(root), std::move(source));
}

Config::Config(nlohmann::json root, std::string source)
    : root_(std::move(root)), source_(std::move(source)) {}

const nlohmann::json* Config::Find(absl::string_view field) const {
  const auto found = root_.find(field);
  return found == root_.end() || found->is_null() ? nullptr : &*found;
}

bool Config::Has(absl::string_view field) const {
  return Find(field) != nullptr;
}

bool Config::IsNull(absl::string_view field) const {
  const auto found = root_.find(std::string(field));
  return found != root_.end() && found->is_null();
}

bool Config::IsText(absl::string_view field, absl::string_view text) const {
  const nlohmann::json* value = Find(field);
  return value != nullptr && *value == std::string(text);
}

absl::string_view Config::NameOf(absl::string_view field, absl::string_view old) const {
  return !Has(field) && Has(old) ? old : field;
}

void Config::Fail(absl::string_view field, absl::string_view expected) {
  if (!status_.ok()) {
    return;
  }
  const nlohmann::json* value = Find(field);
  constexpr auto kReplace = nlohmann::json::error_handler_t::replace;
  const std::string shown =
      value == nullptr ? "absent" : value->dump(-1, ' ', true, kReplace).substr(0, 200);
  status_ =
      absl::InvalidArgumentError(absl::StrCat(source_, ": ", field, " is ", shown, "; ", expected));
}

void Config::Refuse(absl::string_view field, absl::string_view reason) {
  const nlohmann::json* value = Find(field);
  if (value != nullptr && *value != false) {
    Fail(field, reason);
  }
}

int Config::Int(absl::string_view field, int fallback, int min, int max) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    return Note(field, fallback);
  }
  // Some writers spell integers as 4.0.
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (!(number >= min && number <= max) || number != std::floor(number)) {
    Fail(field, absl::StrCat("allowed: an integer from ", min, " to ", max));
    return fallback;
  }
  return Note(field, static_cast<int>(number));
}

double Config::Float(absl::string_view field, double fallback, double min, double max) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    return Note(field, fallback);
  }
  const std::optional<double> number = NumberOf(*value);
  if (!number.has_value() || !(*number >= min && *number <= max)) {
    Fail(field, absl::StrCat("allowed: a number from ", min, " to ", max));
    return fallback;
  }
  return Note(field, *number);
}

std::vector<double> Config::Floats(absl::string_view field, std::vector<double> fallback,
                                   double min, double max) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    return Note(field, fallback);
  }
  std::vector<double> numbers;
  for (const nlohmann::json& item : value->is_array() ? *value : nlohmann::json::array()) {
    const std::optional<double> number = NumberOf(item);
    if (number.has_value() && *number >= min && *number <= max) {
      numbers.push_back(*number);
    }
  }
  if (numbers.size() != fallback.size() || value->size() != fallback.size()) {
    Fail(field,
         absl::StrCat("allowed: a list of ", fallback.size(), " numbers from ", min, " to ", max));
    return fallback;
  }
  return Note(field, numbers);
}

std::vector<int> Config::Ints(absl::string_view field, int min, int max) {
  const nlohmann::json* value = Find(field);
  std::vector<int> numbers;
  for (const nlohmann::json& item :
       value != nullptr && value->is_array() ? *value : nlohmann::json::array()) {
    if (item.is_number_integer() && item >= min && item <= max) {
      numbers.push_back(item.get<int>());
    }
  }
  if (value == nullptr || !value->is_array() || numbers.size() != value->size()) {
    Fail(field, absl::StrCat("allowed: a list of integers from ", min, " to ", max));
    return {};
  }
  return numbers;
}

std::vector<Config> Config::Objects(absl::string_view field) {
  const nlohmann::json* value = Find(field);
  std::vector<Config> objects;
  if (value == nullptr) {
    return objects;
  }
  Note(field, *value);
  if (value->is_object()) {
    objects.push_back(Config(*value, absl::StrCat(source_, ": ", field)));
    return objects;
  }
  for (const nlohmann::json& item : value->is_array() ? *value : nlohmann::json::array()) {
    if (item.is_object()) {
      objects.push_back(Config(item, absl::StrCat(source_, ": ", field, "[", objects.size(), "]")));
    }
  }
  if (!value->is_array() || objects.size() != value->size()) {
    Fail(field, "allowed: an object, a list of objects, null");
    return {};
  }
  return objects;
}

int Config::LayerInt(absl::string_view field, int layer, int layers, int fallback, int max) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr || !value->is_array()) {
    return Int(field, fallback, 1, max);
  }
  const auto index = static_cast<size_t>(layer);
  const bool fits = value->size() == static_cast<size_t>(layers) && (*value)[index].is_number();
  const double number = fits ? (*value)[index].get<double>() : 0;
  if (!(number >= 1 && number <= max) || number != std::floor(number)) {
    Fail(field, absl::StrCat("allowed: an integer from 1 to ", max,
                             ", or a list of one for each of ", layers, " layers"));
    return fallback;
  }
  Note(field, *value);
  return static_cast<int>(number);
}

bool Config::Bool(absl::string_view field, bool fallback) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    return Note(field, fallback);
  }
  if (!value->is_boolean()) {
    Fail(field, "allowed: true, false");
    return fallback;
  }
  return Note(field, value->get<bool>());
}

std::string Config::Text(absl::string_view field, absl::string_view fallback,
                         std::initializer_list<absl::string_view> allowed) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    return Note(field, std::string(fallback));
  }
  for (absl::string_view candidate : allowed) {
    if (*value == std::string(candidate)) {
      return Note(field, std::string(candidate));
    }
  }
  Fail(field, absl::StrCat("allowed: \"", absl::StrJoin(allowed, "\", \""), "\""));
  return std::string(fallback);
}

std::vector<int32_t> Config::Tokens(absl::string_view field,
                                    std::initializer_list<int32_t> fallback) {
  const auto found = root_.find(field);
  if (found == root_.end()) {
    return fallback;
  }
  std::vector<int32_t> tokens;
  if (found->is_null()) {
    return tokens;
  }
  const nlohmann::json list = found->is_array() ? *found : nlohmann::json::array({*found});
  for (const nlohmann::json& item : list) {
    const double number = item.is_number_integer() ? item.get<double>() : -1;
    if (number < 0 || number > std::numeric_limits<int32_t>::max()) {
      Fail(field, "allowed: a token id, a list of token ids, null");
      return {};
    }
    tokens.push_back(static_cast<int32_t>(number));
  }
  return tokens;
}

}  // namespace evenflow
