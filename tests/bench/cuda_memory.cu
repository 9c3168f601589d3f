// Times one decoded token of each memory on a CUDA device, per sessions and state type, against a
// kernel that only reads as many bytes. bench_cuda_memory [--json] [--lockstep] [--hot]
// [--tokens N] [--memory NAME] [--sessions N]
//
// A graph holds one Advance for each of as many layers as are needed for their states to be far
// larger than the second cache. Sessions are out of phase, as in a server, or in lockstep; every
// replay is one position further, and times are means over whole blocks of C positions.
// --hot: of one layer instead, whose states may stay in the second cache from one step to the next.
// --tokens: that many tokens of each session a step, as after speculation.
// Bytes of a step: its state once, 1 / C of it again for the write, and the window's entries (w,
// u, and l where there is one), on average (C - 1) / 2 + R read and one written a token. Of a
// memory with several states a head, those that hold anything where the sessions are; what is
// carried from one into another is not counted. VLA's A and its rows count likewise, and its stage
// is timed with the memory. What does not fit into the device's memory is left out.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "engine/scheduler.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/precondition.h"

#include "tests/bench/cuda_timing.cuh"
#include "tests/bench/memory_shape.h"

namespace evenflow {
namespace {

constexpr int kCycles = 3;         // of C positions, after one that warms up
constexpr int kFirstBlock = 1000;  // where sessions are, in blocks of C positions

struct Options {
  bool json = false;
  bool lockstep = false;
  bool hot = false;
  int tokens = 1;
  std::string memory;
  int sessions = 0;
};

struct Setup {
  MemoryKind memory;
  MemoryShape shape;
  Window window;
  DType dtype;
  int sessions;
  std::optional<Preconditioner> preconditioner;  // VLA's
  int tokens;                                    // of each, a step
};

// Of one layer, the preconditioner's part after the memory's.
size_t LayerBytes(const Setup& setup) {
  return LayoutOf(setup.memory, setup.shape, setup.window, setup.dtype).bytes +
         (setup.preconditioner ? LayoutOf(*setup.preconditioner, setup.window).bytes : 0);
}

// So that their states are far larger than the second cache; 0: none fits.
size_t Layers(const Setup& setup) {
  size_t free = 0, total = 0;
  Check(cudaMemGetInfo(&free, &total));
  const size_t bytes = LayerBytes(setup) * static_cast<size_t>(setup.sessions);
  return std::min(kColdBytes / bytes + 2, free / 10 * 9 / bytes);
}

// Of position `block` C and the two blocks after it, which are timed.
double LiveStates(const Setup& setup, int64_t block) {
  return VisitMemory(setup.memory, [&]<class Memory>() -> double {
    if constexpr (Banked<Memory>) {
      const auto banks = Memory::Banks::Of(setup.shape, setup.window, false);
      const int64_t lag = setup.window.lag / setup.window.commit;
      int live = 0;
      for (int64_t i = 1; i <= kCycles; ++i) {
        for (int bank = 0; bank < BankCount(setup.memory, setup.shape, setup.window); ++bank) {
          live += banks.Live(bank, block + i - lag) ? 1 : 0;
        }
      }
      return static_cast<double>(live) / kCycles;
    } else {
      return 1;
    }
  });
}

double StepBytes(const Setup& setup) {
  const MemoryShape& shape = setup.shape;
  const double state = LiveStates(setup, kFirstBlock) * static_cast<double>(shape.key_dim) *
                       shape.value_dim * static_cast<double>(ByteSize(setup.dtype));
  double entry = EntryCount(setup.memory) * (shape.key_dim + shape.value_dim);
  if (DecayOf(setup.memory) == Decay::kScalar) {
    entry += 1;
  } else if (DecayOf(setup.memory) == Decay::kChannel) {
    entry += shape.key_dim;
  }
  const double commit = setup.window.commit;
  const double entries = (commit - 1) / 2 + setup.window.lag + setup.window.rollback + setup.tokens;
  double head = state * (1 + setup.tokens / commit) + entries * entry * 4;
  if (setup.preconditioner) {
    const double dim = setup.preconditioner->key_dim;
    head += 4 * dim * dim * (1 + setup.tokens / commit) +
            entries * RowsPerToken(*setup.preconditioner) * dim * 4;
  }
  return head * shape.heads * setup.sessions;
}

// In the order in which the server has them.
std::vector<Row> RowsAt(const Setup& setup, int position, bool lockstep) {
  std::vector<Task> streams;
  std::vector<Segment> segments;
  for (int s = 0; s < setup.sessions; ++s) {
    // An odd multiplier spreads phases over the rows that are next to one another.
    const int phase = lockstep ? 0 : s * 7 % setup.window.commit;
    Task& stream = streams.emplace_back();
    stream.decoding = true;
    stream.position = position + phase;
    segments.push_back({s, setup.tokens});
  }
  std::vector<Row> rows;
  for (const Segment& segment : SpreadFolds(setup.window, streams, segments)) {
    rows.push_back({segment.task, static_cast<int>(rows.size()) * setup.tokens, setup.tokens,
                    streams[static_cast<size_t>(segment.task)].position});
  }
  return rows;
}

// Says in each slot and layer how many tokens its stored part holds: `count` words from `offset`
// on.
void SetStored(const Setup& setup, const Memory& slots, size_t layers, size_t offset, int count,
               int first, bool lockstep) {
  const size_t layer_bytes = LayerBytes(setup);
  for (const Row& row : RowsAt(setup, first, lockstep)) {
    const std::vector<int64_t> stored(static_cast<size_t>(count),
                                      setup.window.Stored(row.position - 1));
    for (size_t layer = 0; layer < layers; ++layer) {
      Check(cudaMemcpy(slots.As<char>() +
                           (static_cast<size_t>(row.slot) * layers + layer) * layer_bytes + offset,
                       stored.data(), stored.size() * sizeof(int64_t), cudaMemcpyHostToDevice));
    }
  }
}

// Seconds of a layer's Advance, and of its Precondition.
double Measure(const Setup& setup, size_t layers, const Options& options) {
  const MemoryShape& shape = setup.shape;
  const auto sessions = static_cast<size_t>(setup.sessions);
  const MemoryLayout layout = LayoutOf(setup.memory, shape, setup.window, setup.dtype);
  const size_t layer_bytes = LayerBytes(setup), slot_bytes = layer_bytes * layers;
  const size_t steps = options.hot ? static_cast<size_t>(setup.window.commit) : 1;  // a replay
  const Memory slots(slot_bytes * sessions);
  slots.Fill(-0.5f, 0.5f);
  const int first = kFirstBlock * setup.window.commit;
  SetStored(setup, slots, layers, layout.committed_tokens, 1, first, options.lockstep);
  if (setup.preconditioner) {
    const PreconditionLayout plane = LayoutOf(*setup.preconditioner, setup.window);
    SetStored(setup, slots, layers, layout.bytes + plane.committed_tokens, shape.heads, first,
              options.lockstep);
  }
  const auto floats = [&](int heads, int dim) {
    return sizeof(float) * sessions * static_cast<size_t>(setup.tokens * heads) *
           static_cast<size_t>(dim);
  };
  const Memory q(floats(shape.query_heads, shape.key_dim)),
      raw_k(floats(shape.key_heads, shape.key_dim)),
      k(floats(shape.key_heads * EntryCount(setup.memory), shape.key_dim)),
      e(floats(shape.heads * std::max(1, OwnKeyCount(setup.memory)), shape.key_dim)),
      v(floats(shape.value_heads, shape.value_dim)), log_decay(floats(shape.heads, shape.key_dim)),
      beta(floats(shape.heads, 1)), level_weights(floats(shape.heads, shape.banks)),
      rates(sizeof(float) * static_cast<size_t>(shape.banks)),
      coefficients(sizeof(float) * PowerLaw::kPoints * static_cast<size_t>(shape.banks)),
      o(floats(shape.output_heads(), shape.value_dim)), rows(sizeof(Row) * sessions * steps),
      health(sizeof(StateHealth) * sessions * layers),
      counters(sizeof(uint32_t) * (kCounters + sessions));
  q.Fill(-0.1f, 0.1f);
  raw_k.Fill(-0.1f, 0.1f);
  k.Fill(-0.1f, 0.1f);
  e.Fill(-0.1f, 0.1f);
  v.Fill(-1, 1);
  log_decay.Fill(-0.2f, 0);
  beta.Fill(0, 1);
  level_weights.Fill(0, 1);
  rates.Fill(1e-6f, 0.1f);
  coefficients.Fill(0, 1);
  CudaScratch scratch;
  CudaStep step;
  step.row_count = setup.sessions;
  step.token_count = setup.sessions * setup.tokens;
  step.max_row_tokens = setup.tokens;
  step.health = health.As<StateHealth>();
  step.health_stride = setup.sessions;
  step.scratch = &scratch;
  step.counters = counters.As<uint32_t>();
  AdvanceArgs args;
  args.memory = setup.memory;
  args.shape = shape;
  args.window = setup.window;
  args.state_dtype = setup.dtype;
  args.slots = {slots.As<std::byte>(), slot_bytes};
  args.q = q.As<float>();
  args.k = k.As<float>();
  args.e = e.As<float>();
  args.v = v.As<float>();
  args.log_decay = log_decay.As<float>();
  args.beta = beta.As<float>();
  args.level_weights = level_weights.As<float>();
  args.power_law = {shape.banks, 0.1f, rates.As<float>(), coefficients.As<float>()};
  args.o = o.As<float>();
  PreconditionArgs stage;
  stage.preconditioner = setup.preconditioner.value_or(Preconditioner());
  stage.window = setup.window;
  stage.slots = args.slots;
  stage.k = raw_k.As<float>();
  stage.q = q.As<float>();
  stage.beta = beta.As<float>();
  stage.w = k.As<float>();
  stage.e = e.As<float>();
  scratch.Take(size_t{1} << 26);  // allocations cannot be captured
  const auto enqueue = [&](cudaStream_t stream) {
    step.stream = stream;
    for (size_t i = 0; i < steps * layers; ++i) {
      const size_t layer = i % layers;
      step.rows = rows.As<Row>() + i / layers * sessions;
      args.layer_offset = layer * layer_bytes;
      args.memory_layer = stage.memory_layer = static_cast<int>(layer);
      if (setup.preconditioner) {
        stage.layer_offset = args.layer_offset + layout.bytes;
        CudaPrecondition(stage, step);
      }
      CudaAdvance(args, step);
    }
  };
  const auto before = [&](int replay) {
    std::vector<Row> all;
    for (size_t i = 0; i < steps; ++i) {
      const int done = (replay * static_cast<int>(steps) + static_cast<int>(i)) * setup.tokens;
      const std::vector<Row> next = RowsAt(setup, first + done, options.lockstep);
      all.insert(all.end(), next.begin(), next.end());
    }
    Check(cudaMemcpy(rows.As<Row>(), all.data(), all.size() * sizeof(Row), cudaMemcpyHostToDevice));
  };
  const int commit = setup.window.commit;
  const std::vector<double> seconds = TimeGraph(enqueue, before, commit * (1 + kCycles));
  std::vector<double> cycles;
  for (int cycle = 1; cycle <= kCycles; ++cycle) {
    double sum = 0;
    for (int i = 0; i < commit; ++i) {
      sum += seconds[static_cast<size_t>(cycle * commit + i)];
    }
    cycles.push_back(sum / commit / static_cast<double>(layers * steps));
  }
  return Median(cycles);
}

void Print(const Setup& setup, double seconds, double read_seconds, const Options& options) {
  const double bytes = StepBytes(setup);
  const char* format =
      options.json ? "{\"memory\": \"%s\", \"heads\": %d, \"key_dim\": %d, \"value_dim\": %d, "
                     "\"state_dtype\": \"%s\", \"window\": %d, \"sessions\": %d, \"tokens\": %d, "
                     "\"step_us\": %.2f, "
                     "\"bytes\": %.0f, \"bytes_per_second\": %.4g, \"read_us\": %.2f, "
                     "\"read_fraction\": %.3f}\n"
                   : "%-22s %2d x %3d x %3d %-4s C %2d %4d sessions x %d %8.2f us %11.0f bytes "
                     "%9.3g B/s, only "
                     "read %8.2f us, %5.3f of it\n";
  std::printf(format, Name(setup.memory), setup.shape.heads, setup.shape.key_dim,
              setup.shape.value_dim, Name(setup.dtype), setup.window.commit, setup.sessions,
              setup.tokens, seconds * 1e6, bytes, bytes / seconds, read_seconds * 1e6,
              read_seconds / seconds);
  std::fflush(stdout);
}

// One of VLA's modes for each of its memories; of other memories none.
std::optional<Preconditioner> PreconditionerOf(MemoryKind memory, const MemoryShape& shape) {
  for (const PreconditionMode mode :
       {PreconditionMode::kStar, PreconditionMode::kUnit, PreconditionMode::kRls}) {
    if (MemoryOf(mode) == memory) {
      Preconditioner of;
      of.mode = mode;
      of.heads = shape.heads;
      of.key_dim = shape.key_dim;
      return of;
    }
  }
  return std::nullopt;
}

void Run(const Options& options) {
  cudaDeviceProp device;
  Check(cudaGetDeviceProperties(&device, 0));
  constexpr size_t kBytes = size_t{4} << 30;
  std::printf(options.json
                  ? "{\"device\": \"%s\", \"multiprocessors\": %d, \"memory_bytes\": %zu, "
                    "\"read_bandwidth\": %.4g, \"copy_bandwidth\": %.4g, \"phases\": \"%s%s\"}\n"
                  : "%s (%d multiprocessors, %zu bytes), only read %.4g B/s, copy %.4g B/s (both "
                    "ways), sessions %s%s\n",
              device.name, device.multiProcessorCount, device.totalGlobalMem,
              kBytes / ReadSeconds(kBytes), CopyBandwidth(),
              options.lockstep ? "in lockstep" : "out of phase", options.hot ? ", hot" : "");
  std::vector<int> counts = {1, 16, 64, 256, 1024};
  if (options.sessions > 0) {
    counts = {options.sessions};
  }
  for (const MemoryKind memory : kMemoryKinds) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const int sessions : counts) {
        AdvanceArgs asked;
        asked.memory = memory;
        if (CudaRefusal(asked) != nullptr ||
            (!options.memory.empty() && options.memory != Name(memory))) {
          continue;
        }
        const MemoryShape shape = ShapeOf(memory);
        const Setup setup = {memory,        shape,    FitWindow(memory, Window()),
                             dtype,         sessions, PreconditionerOf(memory, shape),
                             options.tokens};
        const size_t layers = options.hot ? 1 : Layers(setup);
        if (layers == 0) {
          std::fprintf(stderr, "%s %s with %d sessions: no room\n", Name(memory), Name(dtype),
                       sessions);
          continue;
        }
        const double read_seconds = ReadSeconds(static_cast<size_t>(StepBytes(setup)));
        Print(setup, Measure(setup, layers, options), read_seconds, options);
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
    } else if (std::strcmp(argv[i], "--lockstep") == 0) {
      options.lockstep = true;
    } else if (std::strcmp(argv[i], "--hot") == 0) {
      options.hot = true;
    } else if (std::strcmp(argv[i], "--tokens") == 0 && i + 1 < argc) {
      options.tokens = std::atoi(argv[++i]);
    } else if (std::strcmp(argv[i], "--memory") == 0 && i + 1 < argc) {
      options.memory = argv[++i];
    } else if (std::strcmp(argv[i], "--sessions") == 0 && i + 1 < argc) {
      options.sessions = std::atoi(argv[++i]);
    } else {
      std::fprintf(stderr,
                   "usage: bench_cuda_memory [--json] [--lockstep] [--hot] [--tokens N] "
                   "[--memory NAME] [--sessions N]\n");
      return 2;
    }
  }
  evenflow::Run(options);
  return 0;
}
