#include "engine/json.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "engine/utf8.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

// A string of the text that stands for a bare non-finite number. Strings are counted in the order
// in which they begin, keys included.
struct NonFinite {
  size_t string_index;
  double value;
};

// Turns bare Infinity, -Infinity and NaN into strings of the same length, so that positions in
// error messages stay true, and tells which strings these are.
std::vector<NonFinite> QuoteNonFinite(std::string* text) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr std::pair<std::string_view, double> kTokens[] = {
      {"-Infinity", -kInfinity},
      {"Infinity", kInfinity},
      {"NaN", std::numeric_limits<double>::quiet_NaN()}};
  std::vector<NonFinite> found;
  size_t strings = 0;
  bool in_string = false;
  for (size_t i = 0; i < text->size(); ++i) {
    if (in_string) {
      i += (*text)[i] == '\\' ? 1 : 0;
      in_string = i >= text->size() || (*text)[i] != '"' || (*text)[i - 1] == '\\';
      continue;
    }
    if ((*text)[i] == '"') {
      in_string = true;
      ++strings;
      continue;
    }
    for (const auto& [token, value] : kTokens) {
      if (std::string_view(*text).substr(i, token.size()) == token) {
        found.push_back({strings++, value});
        (*text)[i] = '"';
        i += token.size() - 1;
        (*text)[i] = '"';
        break;
      }
    }
  }
  return found;
}

// Builds the value while nlohmann's lexer reports events. The member names are nlohmann's.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(const JsonLimits& limits, std::vector<NonFinite> non_finite)
      : limits_(limits), non_finite_(std::move(non_finite)) {}

  bool null() override { return Add(nullptr) != nullptr; }

  bool boolean(bool value) override { return Add(value) != nullptr; }

  bool number_integer(number_integer_t value) override { return Add(value) != nullptr; }

  bool number_unsigned(number_unsigned_t value) override { return Add(value) != nullptr; }

  bool number_float(number_float_t value, const string_t&) override {
    return Add(value) != nullptr;
  }

  bool string(string_t& value) override {
    if (const NonFinite* bare = TakeNonFinite()) {
      return Add(bare->value) != nullptr;
    }
    return Add(std::move(value)) != nullptr;
  }

  bool binary(binary_t&) override { return Fail("binary values are not JSON"); }

  bool start_object(size_t) override { return Open(nlohmann::json::object()); }

  bool end_object() override { return Close(); }

  bool start_array(size_t) override { return Open(nlohmann::json::array()); }

  bool end_array() override { return Close(); }

  bool key(string_t& value) override {
    if (TakeNonFinite() != nullptr) {
      return Fail("a bare number stands where a key is expected");
    }
    if (open_.back()->contains(value)) {
      return Fail(absl::StrCat("duplicate key \"", value.substr(0, 200), "\""));
    }
    key_ = std::move(value);
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::json::exception& error) override {
    std::string_view what = error.what();
    what = what.substr(std::min(what.size(), what.find("] ") + 2));  // drop nlohmann's error id
    if (what.size() > 300) {
      what = what.substr(0, 300);
      what = what.substr(0, ValidUtf8Prefix(what));
    }
    return Fail(absl::StrCat(std::string(what), " (byte ", position, ")"));
  }

  absl::StatusOr<nlohmann::json> Finish(bool accepted) && {
    if (!accepted) {
      return absl::InvalidArgumentError(absl::StrCat("JSON: ", error_));
    }
    return std::move(root_);
  }

 private:
  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }

  // Puts the value where the reader stands; null when over the limit.
  nlohmann::json* Add(nlohmann::json value) {
    if (++elements_ > limits_.max_elements) {
      Fail(absl::StrCat("more than ", limits_.max_elements, " values; this is the limit"));
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    nlohmann::json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[std::move(key_)] = std::move(value));
  }

  bool Open(nlohmann::json container) {
    if (open_.size() == limits_.max_depth) {
      return Fail(absl::StrCat("nested deeper than ", limits_.max_depth, "; this is the limit"));
    }
    nlohmann::json* added = Add(std::move(container));
    if (added == nullptr) {
      return false;
    }
    open_.push_back(added);
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  // Counts one string; not null when it stands for a bare non-finite number.
  const NonFinite* TakeNonFinite() {
    const size_t index = strings_++;
    if (next_non_finite_ < non_finite_.size() &&
        non_finite_[next_non_finite_].string_index == index) {
      return &non_finite_[next_non_finite_++];
    }
    return nullptr;
  }

  const JsonLimits& limits_;
  const std::vector<NonFinite> non_finite_;
  nlohmann::json root_;
  // Containers being filled. Only the innermost grows, so the pointers stay valid.
  std::vector<nlohmann::json*> open_;
  std::string key_;
  std::string error_;
  size_t elements_ = 0;
  size_t strings_ = 0;
  size_t next_non_finite_ = 0;
};

}  // namespace

absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "JSON: text of ", text.size(), " bytes; at most ", limits.max_bytes, " are allowed"));
  }
  if (const size_t valid = ValidUtf8Prefix(text); valid != text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("JSON: invalid UTF-8 at byte ", valid));
  }
  // nlohmann's lexer takes NUL for the end of the text.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("JSON: NUL at byte ", nul));
  }
  std::string quoted;
  std::vector<NonFinite> non_finite;
  if (limits.allow_non_finite) {
    quoted = text;
    non_finite = QuoteNonFinite(&quoted);
    text = quoted;
  }
  Builder builder(limits, std::move(non_finite));
  const bool accepted = nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder).Finish(accepted);
}

}  // namespace evenflow
