// A step as a device meets it that knows what the step before drew: ids in place of DrawnAt, and
// rings of history with the newest token. One thread.
#ifndef EVENFLOW_TESTS_SUPPORT_RESOLVED_STEP_H_
#define EVENFLOW_TESTS_SUPPORT_RESOLVED_STEP_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "kernels/backend.h"

namespace evenflow {

class ResolvedStep {
 public:
  // `drawn`: of the step before.
  ResolvedStep(const StepInput& step, const std::vector<SampledToken>& drawn)
      : tokens_(step.tokens, step.tokens + step.token_count),
        sampling_(step.sampling, step.sampling + step.logit_count),
        input_(step) {
    for (int32_t& token : tokens_) {
      if (token < 0) {
        token = std::max(drawn.at(static_cast<size_t>(-1 - token)).token, 0);
      }
    }
    for (size_t i = 0; i < sampling_.size(); ++i) {
      SamplingRow& row = sampling_[i];
      if (row.newest_drawn) {
        std::vector<int32_t>& ring =
            rings_.emplace_back(row.history, row.history + row.history_capacity);
        ring[static_cast<size_t>((row.position - 1) % row.history_capacity)] =
            tokens_[static_cast<size_t>(step.logit_tokens[i])];
        row.history = ring.data();
        row.newest_drawn = false;
      }
    }
    input_.tokens = tokens_.data();
    input_.sampling = sampling_.data();
  }

  ResolvedStep(const ResolvedStep&) = delete;
  ResolvedStep& operator=(const ResolvedStep&) = delete;

  // Valid as long as this object is.
  const StepInput& input() const { return input_; }

 private:
  std::vector<int32_t> tokens_;
  std::vector<SamplingRow> sampling_;
  std::deque<std::vector<int32_t>> rings_;
  StepInput input_;
};

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_SUPPORT_RESOLVED_STEP_H_
