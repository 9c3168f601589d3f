// One line for each request that ends, with --verbose: its name, how it ended, tokens and times,
// never its text. Any thread.
#ifndef EVENFLOW_SERVER_REQUEST_LOG_H_
#define EVENFLOW_SERVER_REQUEST_LOG_H_

#include <string>

#include "server/log.h"

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "evenflow/v1/generation.pb.h"

namespace evenflow {

inline void LogEnd(const std::string& request_id, const v1::Finish& finish) {
  Log(LogLevel::kDebug, "request ", absl::CHexEscape(request_id), " ",
      v1::FinishReason_Name(finish.reason()), ", ", finish.usage().prompt_tokens(), " read, ",
      finish.usage().generated_tokens(), " generated, ", finish.timings().total_seconds(), " s");
}

// The code only: a message may quote what the client sent.
inline void LogEnd(const std::string& request_id, const absl::Status& status) {
  Log(LogLevel::kDebug, "request ", absl::CHexEscape(request_id), " ",
      absl::StatusCodeToString(status.code()));
}

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_REQUEST_LOG_H_
