// Does a token at position 300,000 cost what one at the start costs, and does memory stay flat? One
// session is led that far through real gRPC; then it and fresh ones answer in turns, in one run, so
// that noise hits both alike. Prints the medians of the time between tokens, their ratio, and the
// growth of resident memory on the way.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include <unistd.h>

#include "tests/support/test_server.h"

namespace evenflow {
namespace {

constexpr int64_t kFar = 300'000;
constexpr int kPart = 20'000;  // tokens of one request on the way
constexpr int kRounds = 300;
constexpr int kTokens = 200;  // of one answer

double ResidentMiB() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0;
  int64_t resident = 0;
  statm >> size >> resident;
  return static_cast<double>(resident * sysconf(_SC_PAGESIZE)) / (1 << 20);
}

v1::GenerateRequest Request(const std::string& session, int prompt, int answer) {
  v1::GenerateRequest request = TextRequest("", answer);
  request.set_session_id(session);
  request.clear_prompt();
  // Both say the same: text in other scripts comes in other pieces.
  request.mutable_options()->mutable_sampling()->add_allowed_token_ids('a');
  for (int i = 0; i < prompt; ++i) {
    request.mutable_prompt()->mutable_token_ids()->add_ids('a' + i % 26);
  }
  return request;
}

// Mean microseconds between the tokens of one answer.
double Gap(const TestServer& server, const std::string& session) {
  grpc::ClientContext context;
  const auto stub = server.generation();
  const auto reader = stub->Generate(&context, Request(session, 1, kTokens));
  v1::GenerateResponse message;
  std::chrono::steady_clock::time_point first, last;
  int before = 0;  // tokens of the first message
  int tokens = 0;
  while (reader->Read(&message)) {
    if (message.token_ids_size() == 0) {
      continue;
    }
    last = std::chrono::steady_clock::now();
    if (tokens == 0) {
      first = last;
      before = message.token_ids_size();
    }
    tokens += message.token_ids_size();
  }
  reader->Finish();
  return std::chrono::duration<double, std::micro>(last - first).count() /
         std::max(1, tokens - before);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

int Main() {
  const TestServer server;
  const std::string far = server.CreateSession();
  double early_mib = 0;
  Answer answer;
  while (answer.position < kFar) {
    answer = server.Generate(Request(far, kPart, 1));
    if (!answer.status.ok()) {
      std::fprintf(stderr, "%s\n", answer.status.error_message().c_str());
      return 1;
    }
    if (early_mib == 0) {
      early_mib = ResidentMiB();
    }
  }
  const double late_mib = ResidentMiB();
  std::vector<double> far_gaps, fresh_gaps;
  for (int round = 0; round < kRounds; ++round) {
    // Whoever comes second finds caches as the first one left them: they take turns at that too.
    for (const bool is_far : {round % 2 == 0, round % 2 != 0}) {
      (is_far ? far_gaps : fresh_gaps).push_back(Gap(server, is_far ? far : ""));
    }
  }
  const double far_us = Median(far_gaps);
  const double fresh_us = Median(fresh_gaps);
  std::printf("position %ld: median %.1f us between tokens; fresh: %.1f us; ratio %.3f\n",
              static_cast<long>(answer.position), far_us, fresh_us, far_us / fresh_us);
  std::printf("resident memory: %.1f MiB at position %d, %.1f MiB at %ld, %.1f MiB at the end\n",
              early_mib, kPart, late_mib, static_cast<long>(answer.position), ResidentMiB());
  return 0;
}

}  // namespace
}  // namespace evenflow

int main() {
  return evenflow::Main();
}
