// Times one decoded token of each memory, per sessions and state type, against the read bandwidth
// of the machine's memory; and a token of a prompt, which the sessions read in turn, 256 tokens a
// step. bench_memory [--threads N] [--json] [--memory NAME]
// bench_memory --list: only the bytes of one head's memory, 128 x 256 in fp32.
//
// Bytes of a token: its states once, 1 / C of them again for the write, and the window's tokens (w
// and u of each entry, and l where there is one), on average (C - 1) / 2 read and one written.
// VLA's A and its rows count likewise.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/bandwidth.h"
#include "kernels/cpu/step.h"

#include "tests/support/memory_sessions.h"

namespace evenflow {
namespace {

struct Options {
  int threads = 0;
  bool json = false;
  const char* memory = nullptr;  // the only one that is timed
};

struct Result {
  double seconds = 0;         // of a step: one token for each session
  double bytes = 0;           // of a step
  double prompt_seconds = 0;  // of a token of a prompt
};

constexpr int kCycles = 7;  // that are timed, after one that is not
constexpr int kPrompt = 256;

// States of a head that are read, on average over the blocks that are timed.
double LiveBanks(const MemorySetup& setup) {
  int live = 0;
  for (int block = 1; block <= kCycles; ++block) {
    for (int bank = 0; bank < BankCount(setup.memory, setup.shape, setup.window); ++bank) {
      live += IsLive(setup, bank, block) ? 1 : 0;
    }
  }
  return static_cast<double>(live) / kCycles;
}

double StepBytes(const MemorySetup& setup, int sessions) {
  const MemoryShape& shape = setup.shape;
  const double state = LiveBanks(setup) * shape.key_dim * shape.value_dim *
                       static_cast<double>(ByteSize(setup.state_dtype));
  double token = EntryCount(setup.memory) * (shape.key_dim + shape.value_dim);
  if (DecayOf(setup.memory) == Decay::kScalar) {
    token += 1;
  } else if (DecayOf(setup.memory) == Decay::kChannel) {
    token += shape.key_dim;
  }
  const double commit = setup.window.commit;
  const double tokens = setup.window.lag + (commit - 1) / 2 + 1;
  double head = state * (1 + 1 / commit) + tokens * token * 4;
  if (setup.mode.has_value()) {
    const Preconditioner of = setup.preconditioner();
    const double plane = 4.0 * of.key_dim * of.key_dim;
    head += plane * (1 + 1 / commit) + tokens * RowsPerToken(of) * of.key_dim * 4;
  }
  return head * shape.heads * sessions;
}

double Median(std::vector<double> seconds) {
  const auto middle = seconds.begin() + static_cast<ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

// Goes on where `rows` end.
double MeasurePrompt(MemorySessions& memory, std::vector<MemoryRow> rows) {
  std::vector<double> steps;
  for (size_t step = 0; step < kCycles; ++step) {
    MemoryRow& row = rows[step % rows.size()];
    row.end = row.begin + kPrompt;
    memory.Step({row});
    row.begin = row.end;
    steps.push_back(memory.step_seconds() / kPrompt);
  }
  return Median(steps);
}

// The median over whole cycles of C steps, so that each has its share of commits. Sessions are out
// of phase, as in a server.
Result Measure(const MemorySetup& setup, int sessions, int threads) {
  const int commit = setup.window.commit;
  const int tokens = commit * (kCycles + 2) + kPrompt * ((kCycles + sessions - 1) / sessions);
  const MemoryInputs inputs = RandomInputs(setup, tokens, 1);
  MemorySessions memory(setup, sessions, threads);
  std::vector<MemoryRow> rows;
  for (int s = 0; s < sessions; ++s) {
    const int phase = s % commit;
    if (phase > 0) {
      memory.Step({{s, &inputs, 0, phase}});
    }
    rows.push_back({s, &inputs, phase, phase + 1});
  }
  std::vector<double> cycles;
  for (int cycle = 0; cycle < kCycles + 1; ++cycle) {
    double seconds = 0;
    for (int i = 0; i < commit; ++i) {
      memory.Step(rows);
      seconds += memory.step_seconds();
      for (MemoryRow& row : rows) {
        ++row.begin;
        ++row.end;
      }
    }
    if (cycle > 0) {
      cycles.push_back(seconds / commit);
    }
  }
  return {Median(cycles), StepBytes(setup, sessions), MeasurePrompt(memory, rows)};
}

void Print(const MemorySetup& setup, int sessions, const Result& result, double bandwidth,
           const Options& options) {
  const double rate = result.bytes / result.seconds;
  const char* format =
      options.json
          ? "{\"memory\": \"%s\", \"heads\": %d, \"key_dim\": %d, \"value_dim\": %d, "
            "\"state_dtype\": \"%s\", \"window\": %d, \"sessions\": %d, \"step_us\": %.2f, "
            "\"bytes\": %.0f, \"bytes_per_second\": %.4g, \"bandwidth_fraction\": %.3f, "
            "\"prompt_token_us\": %.2f, \"decode_to_prompt\": %.2f}\n"
          : "%-22s %3d x %3d x %3d %s C %2d %4d sessions %10.2f us %11.0f bytes %9.3g B/s %6.3f "
            "prompt %8.2f us %5.2f x\n";
  std::printf(format, Name(setup.memory), setup.shape.heads, setup.shape.key_dim,
              setup.shape.value_dim, Name(setup.state_dtype), setup.window.commit, sessions,
              result.seconds * 1e6, result.bytes, rate, rate / bandwidth,
              result.prompt_seconds * 1e6, result.seconds / sessions / result.prompt_seconds);
  std::fflush(stdout);
}

void List() {
  for (const MemoryKind memory : kMemoryKinds) {
    const MemorySetup setup = Fitted({memory, PlainShape(1, 128, 256), Window(), DType::kF32});
    std::printf("%-24s %8zu\n", Name(memory), SlotBytes(setup));
  }
}

void Run(const Options& options) {
  ReadBandwidth read_bandwidth(options.threads);
  for (const MemoryKind memory : kMemoryKinds) {
    if (options.memory != nullptr && std::strcmp(options.memory, Name(memory)) != 0) {
      continue;
    }
    // What the memory delivers changes with time and neighbours.
    const double bandwidth = read_bandwidth.Measure();
    std::printf(options.json ? "{\"read_bandwidth\": %.4g}\n" : "read bandwidth %.4g B/s\n",
                bandwidth);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const int sessions : {1, 16, 64}) {
        const MemorySetup setup = Fitted({memory, PlainShape(8, 128, 256), Window(), dtype});
        Print(setup, sessions, Measure(setup, sessions, options.threads), bandwidth, options);
      }
    }
  }
}

}  // namespace
}  // namespace evenflow

int main(int argc, char** argv) {
  evenflow::Options options;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0) {
      options.json = true;
    } else if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc) {
      options.threads = std::atoi(argv[++i]);
    } else if (std::strcmp(argv[i], "--memory") == 0 && i + 1 < argc) {
      options.memory = argv[++i];
    } else if (std::strcmp(argv[i], "--list") == 0) {
      evenflow::List();
      return 0;
    } else {
      std::fprintf(stderr, "usage: bench_memory [--threads N] [--json] [--memory NAME] | --list\n");
      return 2;
    }
  }
  evenflow::Run(options);
  return 0;
}
