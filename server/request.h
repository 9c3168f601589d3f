// From what a client wrote to what the engine takes: every field is checked here, and a message
// names the field, what was given and what is allowed. Pure functions; thread-safe.
#ifndef EVENFLOW_SERVER_REQUEST_H_
#define EVENFLOW_SERVER_REQUEST_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/serving.h"
#include "server/token_stream.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "evenflow/v1/generation.pb.h"

namespace evenflow {

inline constexpr int64_t kDefaultMaxTokens = 256;
inline constexpr int kMaxStopStrings = 16;
inline constexpr size_t kMaxStopBytes = 256;
inline constexpr int kMaxStopTokens = 64;
inline constexpr int kMaxTopLogprobs = 20;
inline constexpr int kMaxLogitBiases = 1024;
inline constexpr size_t kMaxRequestIdBytes = 128;
inline constexpr int kMaxPriority = 100;

// Fills what `options` decide in *request and *text; null: the input is only read. `path` is the
// field's name in messages, "options". Without a seed, a random one is taken.
absl::Status ReadOptions(const Serving& serving, const std::string& path,
                         const v1::GenerateOptions* options, EngineRequest* request,
                         TextOptions* text);

// The tokens of `input`; text at position 0 begins with BOS. Empty when there is nothing in it.
// INVALID_ARGUMENT: invalid UTF-8, ids outside the vocabulary, too long.
absl::StatusOr<std::vector<int32_t>> ReadInput(const Serving& serving, const std::string& path,
                                               const v1::Input& input, int64_t position);

absl::Status CheckRequestId(const std::string& request_id);
absl::Status CheckPriority(std::optional<int32_t> priority);
absl::Status CheckExpectedPosition(std::optional<int64_t> position);

// `bits` random bits (a multiple of 64) as hexadecimal digits.
std::string RandomName(int bits);

// INVALID_ARGUMENT "<field> is <value>; allowed: <allowed>".
absl::Status BadField(const std::string& field, const std::string& value,
                      const std::string& allowed);

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_REQUEST_H_
