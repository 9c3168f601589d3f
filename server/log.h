// One line per event on standard error, with UTC time and level. Thread-safe. Never given prompt or
// generated text.
#ifndef EVENFLOW_SERVER_LOG_H_
#define EVENFLOW_SERVER_LOG_H_

#include <atomic>
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace evenflow {

enum class LogLevel : int { kDebug, kInfo, kWarning, kError };

// Lines below this level are dropped. Set once at start.
inline std::atomic<LogLevel> log_threshold{LogLevel::kInfo};

template <typename... Parts>
void Log(LogLevel level, const Parts&... parts) {
  if (level < log_threshold.load(std::memory_order_relaxed)) {
    return;
  }
  static constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  const std::string line =
      absl::StrCat(absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()), " ",
                   kNames[static_cast<int>(level)], " ", parts..., "\n");
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_LOG_H_
