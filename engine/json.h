// Reader for JSON that comes from outside (model configs, weight headers, tokenizers): strict, with
// limits. Pure function; thread-safe.
#ifndef EVENFLOW_ENGINE_JSON_H_
#define EVENFLOW_ENGINE_JSON_H_

#include <cstddef>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace evenflow {

struct JsonLimits {
  size_t max_bytes = size_t{64} << 20;    // length of the text
  size_t max_depth = 64;                  // nested objects and arrays
  size_t max_elements = size_t{8} << 20;  // values in all, containers included
  // Also read the bare tokens Infinity, -Infinity and NaN as numbers: not JSON, but Python's json
  // module writes them into configs.
  bool allow_non_finite = false;
};

// Reads one JSON value that fills the whole text. INVALID_ARGUMENT, with what is wrong and where,
// for: text over a limit, invalid UTF-8, a key that occurs twice in one object (the key is named),
// anything that is not JSON, numbers beyond the range of a double.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, const JsonLimits& limits = {});

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_JSON_H_
