// The "pattern" objects of a tokenizer.json: {"Regex": ...} or {"String": ...}.
// Pure function; thread-safe.
#ifndef EVENFLOW_ENGINE_TOKENIZER_PATTERN_H_
#define EVENFLOW_ENGINE_TOKENIZER_PATTERN_H_

#include <memory>

#include "engine/tokenizer/fields.h"
#include "engine/tokenizer/regex.h"

#include "absl/status/statusor.h"

namespace evenflow {

// The pattern in `fields`; errors name the component.
absl::StatusOr<std::unique_ptr<const Regex>> LoadPattern(Fields* fields);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_TOKENIZER_PATTERN_H_
