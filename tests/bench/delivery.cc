// How long a token takes from the end of its step to its client's receipt, over real gRPC on
// 127.0.0.1, server and client in this process on one steady clock, with a model whose step is
// negligible. Three cases: one stream that waits for each token before it asks for the next (the
// way of a token alone; its median should be under 150 us), and 1 and 64 streams at full speed,
// where tokens also wait for the messages before them.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "engine/engine.h"
#include "engine/model/model.h"
#include "kernels/backend.h"
#include "server/generation_service.h"
#include "server/metrics.h"
#include "server/serving.h"
#include "server/workers.h"

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tests/support/test_server.h"

namespace evenflow {
namespace {

constexpr int kTokens = 500;

// Ends of steps by stream; a stream writes only the token that is its number.
class StepEnds {
 public:
  void Add(const TokenEvent& event) {
    absl::MutexLock lock(&mutex_);
    ends_[static_cast<size_t>(event.sampled.token)].push_back(event.step_end);
  }

  std::vector<SteadyTime> Take(int stream) {
    absl::MutexLock lock(&mutex_);
    return std::move(ends_[static_cast<size_t>(stream)]);
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::vector<SteadyTime>> ends_ ABSL_GUARDED_BY(mutex_) =
      std::vector<std::vector<SteadyTime>>(256);
};

std::vector<SteadyTime> Receive(v1::Generation::Stub& stub, int stream) {
  v1::GenerateRequest request = TextRequest("x", kTokens);
  request.mutable_options()->mutable_sampling()->add_allowed_token_ids(stream);
  grpc::ClientContext context;
  const auto reader = stub.Generate(&context, request);
  std::vector<SteadyTime> receipts;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    receipts.insert(receipts.end(), static_cast<size_t>(message.token_ids_size()),
                    std::chrono::steady_clock::now());
  }
  reader->Finish();
  return receipts;
}

// One token for each append on one bidirectional stream.
std::vector<SteadyTime> ReceiveOneByOne(v1::Generation::Stub& stub, int stream) {
  grpc::ClientContext context;
  const auto exchange = stub.Stream(&context);
  v1::StreamRequest request;
  request.mutable_config();
  exchange->Write(request);
  std::vector<SteadyTime> receipts;
  v1::StreamResponse message;
  for (int i = 0; i < kTokens; ++i) {
    v1::GenerateRequest one = TextRequest("x", 1);
    one.mutable_options()->mutable_sampling()->add_allowed_token_ids(stream);
    *request.mutable_append()->mutable_input() = one.prompt();
    *request.mutable_append()->mutable_generate() = one.options();
    exchange->Write(request);
    while (exchange->Read(&message)) {
      receipts.insert(receipts.end(), static_cast<size_t>(message.response().token_ids_size()),
                      std::chrono::steady_clock::now());
      if (message.response().has_finish()) {
        break;
      }
    }
  }
  exchange->WritesDone();
  exchange->Finish();
  return receipts;
}

void Measure(const char* name, int streams, StepEnds& ends,
             const std::function<std::vector<SteadyTime>(int stream)>& receive) {
  std::vector<double> delays_us;
  absl::Mutex mutex;
  std::vector<std::thread> threads;
  for (int stream = 0; stream < streams; ++stream) {
    threads.emplace_back([&, stream] {
      const std::vector<SteadyTime> receipts = receive('A' + stream);
      const std::vector<SteadyTime> from = ends.Take('A' + stream);
      absl::MutexLock lock(&mutex);
      for (size_t i = 0; i < std::min(receipts.size(), from.size()); ++i) {
        delays_us.push_back(
            std::chrono::duration<double, std::micro>(receipts[i] - from[i]).count());
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  std::sort(delays_us.begin(), delays_us.end());
  if (delays_us.empty()) {
    std::printf("%s: no tokens\n", name);
    return;
  }
  std::printf("%s: %zu tokens, median %.0f us, 99th percentile %.0f us\n", name, delays_us.size(),
              delays_us[delays_us.size() / 2], delays_us[delays_us.size() * 99 / 100]);
}

int Main() {
  const std::unique_ptr<Backend> backend = CreateCpuBackend({.threads = 1});
  auto model = Model::Load(TinyModelDirectory(), {}, *backend);
  auto tokenizer = Tokenizer::FromFile(TinyModelDirectory() + "/tokenizer.json");
  if (!model.ok() || !tokenizer.ok()) {
    return 1;
  }
  StepEnds ends;
  Metrics metrics("tiny", (*model)->state_planes());
  metrics.SetTokenProbe([&ends](const TokenEvent& event) { ends.Add(event); });
  Workers delivery(2), tokenizing(1);
  auto engine = Engine::Create({}, *std::move(model), *backend, metrics.Observer());
  if (!engine.ok()) {
    return 1;
  }
  Serving serving;
  serving.engine = engine->get();
  serving.tokenizer = tokenizer->get();
  serving.metrics = &metrics;
  serving.delivery = &delivery;
  serving.tokenizing = &tokenizing;
  serving.model_name = "tiny";
  GenerationService service(serving);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  const auto stub = v1::Generation::NewStub(
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
  const auto at_full_speed = [&stub](int stream) { return Receive(*stub, stream); };
  Measure("one by one", 1, ends, [&stub](int stream) { return ReceiveOneByOne(*stub, stream); });
  Measure("1 stream", 1, ends, at_full_speed);
  Measure("64 streams", 64, ends, at_full_speed);
  server->Shutdown();
  engine->reset();
  return 0;
}

}  // namespace
}  // namespace evenflow

int main() {
  return evenflow::Main();
}
