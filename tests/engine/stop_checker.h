// What the server does with text, done with token ids: finds "stop strings" in a stream and tells
// the outbox how far it was checked.
#ifndef EVENFLOW_TESTS_ENGINE_STOP_CHECKER_H_
#define EVENFLOW_TESTS_ENGINE_STOP_CHECKER_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "engine/outbox.h"

namespace evenflow {

class StopChecker {
 public:
  StopChecker(std::vector<std::vector<int32_t>> stops, std::vector<int32_t> tail)
      : stops_(std::move(stops)), tail_(std::move(tail)) {}

  // `tokens`: all that were generated so far.
  void Check(const std::vector<int32_t>& tokens, Outbox& outbox) {
    size_t maybe = 0;  // newest tokens that could begin a stop string
    for (; checked_ < tokens.size() && !kept_; ++checked_) {
      const auto end = tokens.begin() + static_cast<std::ptrdiff_t>(checked_) + 1;
      maybe = 0;
      for (const auto& stop : stops_) {
        const size_t longest = std::min(stop.size(), checked_ + 1);
        for (size_t n = 1; n <= longest; ++n) {
          if (std::equal(end - static_cast<std::ptrdiff_t>(n), end, stop.begin())) {
            maybe = std::max(maybe, n);
            if (n == stop.size()) {
              kept_ = static_cast<int64_t>(checked_ + 1 - n);
            }
          }
        }
      }
      confirmed_ = static_cast<int64_t>(checked_ + 1 - maybe);
    }
    if (kept_ && !told_) {
      told_ = true;
      outbox.StopAt({*kept_, tail_});
    } else if (!kept_) {
      outbox.Confirm(static_cast<int64_t>(checked_), confirmed_);
    }
  }

  // Tokens before the stop string, once it was found.
  std::optional<int64_t> kept() const { return kept_; }

 private:
  const std::vector<std::vector<int32_t>> stops_;
  const std::vector<int32_t> tail_;
  size_t checked_ = 0;
  int64_t confirmed_ = 0;
  std::optional<int64_t> kept_;
  bool told_ = false;
};

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_ENGINE_STOP_CHECKER_H_
