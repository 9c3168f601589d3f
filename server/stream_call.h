// One bidirectional stream: config, then appends in order, each with its response. An actor; its
// state is only touched in Step.
#ifndef EVENFLOW_SERVER_STREAM_CALL_H_
#define EVENFLOW_SERVER_STREAM_CALL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "server/call.h"
#include "server/live_calls.h"

#include "evenflow/v1/generation.grpc.pb.h"

namespace evenflow {

// Appends, and bytes of appends, that are read ahead of the one that is served.
inline constexpr size_t kMaxWaitingAppends = 16;
inline constexpr size_t kMaxWaitingBytes = size_t{4} << 20;

class StreamCall final
    : public Call<grpc::ServerBidiReactor<v1::StreamRequest, v1::StreamResponse>> {
 public:
  // `live` outlives the call.
  StreamCall(const Serving& serving, grpc::CallbackServerContext* context, LiveCalls* live);

  void Start();

 private:
  enum class Read { kNone, kInFlight, kArrived, kEnded };

  struct Waiting {
    v1::Append append;
    int64_t index = 0;
    SteadyTime arrived;
    bool interrupted = false;  // by a later append, before its turn: it is only read
  };

  void OnReadDone(bool ok) override;
  void OnDone() override;
  void Step() override;

  void TakeRead();
  absl::Status Configure(const v1::StreamConfig& config);
  void Queue(v1::Append append);
  void ReadOn();
  // Begins to serve the next append.
  void Next();
  void ReadAppend();
  void SubmitAppend();
  void Send();
  // The stream is over for this reason, as soon as the engine has let go of it.
  void Fail(const absl::Status& status);
  void End(absl::Status status);

  LiveCalls* const live_;
  std::atomic<Read> read_{Read::kNone};
  v1::StreamRequest incoming_;  // written by gRPC while read_ is kInFlight
  bool configured_ = false;
  std::string request_id_;
  int priority_ = 0;
  SessionLease lease_;
  std::deque<Waiting> waiting_;
  size_t waiting_bytes_ = 0;
  int64_t appends_ = 0;

  std::optional<Waiting> current_;
  std::atomic<bool> preparing_{false};  // current_'s text is being tokenized elsewhere
  EngineRequest engine_request_;
  TextOptions text_options_;
  absl::Status prepared_;

  absl::Status failure_;
  bool finished_ = false;
  v1::StreamResponse message_;
};

}  // namespace evenflow

#endif  // EVENFLOW_SERVER_STREAM_CALL_H_
