// The engine, before its thread starts: steps that nobody waits for. A device's first step of a
// size may take 100 ms and more (kernels are loaded, memory is taken, the step is recorded), which
// streams that are there by then would feel.
#include <algorithm>
#include <chrono>
#include <vector>

#include "engine/engine_impl.h"

namespace evenflow {
namespace {

// The first step of a size does what is done once, the second one is recorded.
constexpr int kTimes = 2;
// Changes of logits for which a step's inputs have room afterwards, for each of its samples: those
// of penalties that look back as far as they do by default.
constexpr size_t kEdits = 64;

class WarmUp {
 public:
  WarmUp(Backend& backend, Forwarder& forwarder, StatePool& pool, int rows)
      : backend_(backend), forwarder_(forwarder), pool_(pool) {
    params_.logit_bias.resize(kEdits);
    for (int i = 0; i < rows; ++i) {
      slots_.push_back({*pool_.Acquire(), 0});
    }
  }

  ~WarmUp() {
    for (const Slot& slot : slots_) {
      pool_.Release(slot.handle);
    }
  }

  WarmUp(const WarmUp&) = delete;
  WarmUp& operator=(const WarmUp&) = delete;

  void Run(int count, int tokens_each) {
    const std::vector<int32_t> tokens(static_cast<size_t>(count) *
                                      static_cast<size_t>(tokens_each));
    std::vector<Row> rows;
    std::vector<int32_t> logit_tokens;
    std::vector<SamplingRow> sampling;
    for (int i = 0; i < count; ++i) {
      Slot& slot = slots_[static_cast<size_t>(i)];
      rows.push_back({slot.handle.index, i * tokens_each, tokens_each, slot.position});
      slot.position += tokens_each;
      logit_tokens.push_back((i + 1) * tokens_each - 1);
      SamplingRow& row = sampling.emplace_back();
      row.params = &params_;
      row.history = tokens.data();
      row.history_capacity = 1;
      row.position = slot.position;
    }
    StepInput input;
    input.rows = rows.data();
    input.tokens = tokens.data();
    input.logit_tokens = logit_tokens.data();
    input.sampling = sampling.data();
    input.row_count = input.logit_count = count;
    input.token_count = static_cast<int>(tokens.size());
    backend_.BeginStep(input);
    forwarder_.Forward(pool_.slots());
    backend_.Sample({forwarder_.logits(), forwarder_.info().vocab_size});
    backend_.Collect(backend_.Launch());
  }

 private:
  struct Slot {
    SlotHandle handle;
    int64_t position = 0;
  };

  Backend& backend_;
  Forwarder& forwarder_;
  StatePool& pool_;
  SamplingParams params_;
  std::vector<Slot> slots_;
};

}  // namespace

absl::Status Engine::Impl::RunFirstSteps() {
  const auto begin = std::chrono::steady_clock::now();
  const std::vector<int> sizes =
      backend_.RecordedSizes(std::min(options.max_rows, pool_->sessions()));
  if (sizes.empty()) {
    return absl::OkStatus();
  }
  {
    WarmUp steps(backend_, *forwarder_, *pool_, sizes.back());
    steps.Run(1, options.step_tokens);
    // The largest first, as it takes the memory that the others share.
    for (auto size = sizes.rbegin(); size != sizes.rend(); ++size) {
      for (int time = 0; time < kTimes; ++time) {
        steps.Run(*size, 1);
      }
    }
  }
  if (const std::string error = backend_.error(); !error.empty()) {
    return absl::UnavailableError(error);
  }
  if (observer_.on_warm_up) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    observer_.on_warm_up(static_cast<int>(sizes.size()), seconds.count());
  }
  return absl::OkStatus();
}

}  // namespace evenflow
