#include "clients/cli/bench/load.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/time/time.h"
#include "clients/cli/connection.h"

namespace evenflow {

// One running request. gRPC calls its reactions one after another; `record` is the load's once
// OnDone has run.
class Load::Call : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(Load& load, const v1::GenerateRequest& request) : load_(load), request_(request) {
    record.input_tokens = request.prompt().token_ids().ids_size();
    const size_t expected = static_cast<size_t>(request.options().max_tokens());
    record.arrivals.reserve(std::min<size_t>(expected, 1 << 16));
  }

  void Start(v1::Generation::Stub& stub) {
    if (load_.plan_.timeout_seconds) {
      const auto limit = std::chrono::duration<double>(*load_.plan_.timeout_seconds);
      context_.set_deadline(std::chrono::system_clock::now() +
                            std::chrono::duration_cast<std::chrono::microseconds>(limit));
    }
    record.sent = Clock::now();
    stub.async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      return;
    }
    if (response_.token_ids_size() > 0) {
      record.arrivals.push_back({Clock::now(), response_.token_ids_size()});
    }
    finished_ = response_.has_finish();
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    if (!status.ok()) {
      record.error = CodeName(status.error_code());
    } else if (!finished_ || record.arrivals.empty()) {
      record.error = "NO_FINAL_MESSAGE";
    }
    load_.Ended(!record.error.empty());
  }

  RequestRecord record;

 private:
  Load& load_;
  const v1::GenerateRequest& request_;
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
  bool finished_ = false;
};

Load::Load(std::vector<std::shared_ptr<grpc::Channel>> channels, LoadPlan plan)
    : plan_(std::move(plan)) {
  for (const auto& channel : channels) {
    stubs_.push_back(v1::Generation::NewStub(channel));
  }
}

Load::~Load() = default;

std::vector<RequestRecord> Load::Run() {
  const Clock::time_point start = Clock::now();
  for (size_t i = 0; i < plan_.requests.size() && AwaitTurn(i, start); ++i) {
    auto call = std::make_unique<Call>(*this, plan_.requests[i]);
    Call& started = *call;
    {
      absl::MutexLock lock(&mutex_);
      calls_.push_back(std::move(call));
    }
    started.Start(*stubs_[i % stubs_.size()]);
  }
  absl::MutexLock lock(&mutex_);
  const auto all_ended = [this]()
                             ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return progress_.running == 0; };
  mutex_.Await(absl::Condition(&all_ended));
  std::vector<RequestRecord> records;
  for (const std::unique_ptr<Call>& call : calls_) {
    records.push_back(std::move(call->record));
  }
  return records;
}

bool Load::AwaitTurn(size_t index, Clock::time_point start) {
  const auto due = start + std::chrono::duration_cast<Clock::duration>(
                               std::chrono::duration<double>(plan_.send_seconds[index]));
  absl::MutexLock lock(&mutex_);
  const auto cancelled = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return cancelled_; };
  mutex_.AwaitWithTimeout(absl::Condition(&cancelled), absl::FromChrono(due - Clock::now()));
  const auto turn = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return cancelled_ || !plan_.max_concurrency || progress_.running < *plan_.max_concurrency;
  };
  mutex_.Await(absl::Condition(&turn));
  if (cancelled_) {
    return false;
  }
  ++progress_.sent;
  ++progress_.running;
  progress_.peak_running = std::max(progress_.peak_running, progress_.running);
  return true;
}

void Load::Ended(bool failed) {
  absl::MutexLock lock(&mutex_);
  --progress_.running;
  ++progress_.ended;
  progress_.failed += failed;
}

void Load::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  for (const std::unique_ptr<Call>& call : calls_) {
    call->Cancel();
  }
}

LoadProgress Load::progress() const {
  absl::MutexLock lock(&mutex_);
  return progress_;
}

}  // namespace evenflow
