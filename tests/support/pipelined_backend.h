// A backend that another one computes for, with a pipeline depth of 1: it tells what a step drew
// only when the step is collected. Owned and used like the other.
#ifndef EVENFLOW_TESTS_SUPPORT_PIPELINED_BACKEND_H_
#define EVENFLOW_TESTS_SUPPORT_PIPELINED_BACKEND_H_

#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"

#include "tests/support/forwarding_backend.h"
#include "tests/support/resolved_step.h"

namespace evenflow {

class PipelinedBackend : public ForwardingBackend {
 public:
  // REQUIRES: pipeline_depth() of `backend` is 0.
  explicit PipelinedBackend(std::unique_ptr<Backend> backend)
      : ForwardingBackend(std::move(backend)) {}

  std::string Describe() const override { return ForwardingBackend::Describe() + ", pipelined"; }

  int pipeline_depth() const override { return 1; }

  void BeginStep(const StepInput& step) override {
    if (launched_.size() > 1) {
      std::abort();  // more under way than the depth
    }
    step_ = std::make_unique<ResolvedStep>(step, drawn_);
    ForwardingBackend::BeginStep(step_->input());
  }

  Ticket Launch() override {
    const Ticket ticket = ForwardingBackend::Launch();
    launched_.push_back({ticket, ForwardingBackend::Collect(ticket)});
    drawn_ = launched_.back().output.sampled;
    return ticket;
  }

  const StepOutput& Collect(Ticket ticket) override {
    if (launched_.empty() || launched_.front().ticket != ticket) {
      std::abort();  // not in the order of launches
    }
    collected_ = std::move(launched_.front().output);
    launched_.pop_front();
    return collected_;
  }

 private:
  struct Launched {
    Ticket ticket;
    StepOutput output;
  };

  std::unique_ptr<ResolvedStep> step_;
  std::vector<SampledToken> drawn_;  // by the step launched last
  std::deque<Launched> launched_;    // not collected
  StepOutput collected_;
};

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_SUPPORT_PIPELINED_BACKEND_H_
