// Times how long a layer's memory takes for a prompt on a CUDA device, next to the dense bf16
// products of cuBLASLt. bench_cuda_prefill [--json] [--memory NAME] [--tokens N] [--sequences N]
//
// A graph holds a few Advances of the same tokens, from position 0. "fast" has bf16 operands,
// "exact" fp32 ones, "singly" goes from token to token. The rate counts what the recurrence needs:
// 4 key_dim value_dim operations a token and head, 6 where it erases.
#include <cstring>
#include <string>

#include "kernels/cuda/advance.cuh"
#include "kernels/cuda/matmul.h"

#include "tests/bench/cuda_timing.cuh"
#include "tests/bench/memory_shape.h"

namespace evenflow {
namespace {

constexpr int kReplays = 7;

struct Options {
  bool json = false;
  std::string memory;
  int tokens = 4096;
  int sequences = 1;
};

enum class Mode { kFast, kExact, kSingly };

constexpr const char* kModes[] = {"fast", "exact", "singly"};

struct Setup {
  MemoryKind memory;
  MemoryShape shape;
  int tokens;
  int sequences;
  Mode mode;
};

double MedianReplay(const std::function<void(cudaStream_t)>& enqueue) {
  return Median(TimeGraph(
      enqueue, [](int) {}, kReplays));
}

// Seconds of a product [rows, inputs] x [inputs, outputs] in bf16.
double ProductSeconds(int rows, int inputs, int outputs) {
  constexpr int kProducts = 4;  // of a graph
  const auto bytes = [](int64_t a, int64_t b) { return static_cast<size_t>(a * b) * 2; };
  const Memory x(bytes(rows, inputs)), w(bytes(outputs, inputs)), y(bytes(rows, outputs));
  x.Fill(-1, 1);
  w.Fill(-0.1f, 0.1f);
  std::string error;
  const std::unique_ptr<CudaMatMul> matmul = CudaMatMul::Create(false, &error);
  if (matmul == nullptr) {
    std::fprintf(stderr, "%s\n", error.c_str());
    std::exit(1);
  }
  MatMulArgs args;
  args.x = {x.As<void>(), DType::kBF16, inputs};
  args.w = {w.As<void>(), DType::kBF16, outputs, inputs};
  args.y = {y.As<void>(), DType::kBF16, outputs};
  CudaStep step;
  step.row_count = 1;
  step.token_count = rows;
  return MedianReplay([&](cudaStream_t stream) {
           step.stream = stream;
           for (int i = 0; i < kProducts; ++i) {
             matmul->Run(args, {}, step);
           }
         }) /
         kProducts;
}

// Seconds of a layer's Advance.
double Measure(const Setup& setup) {
  constexpr int kLayers = 2;  // of a graph
  const MemoryShape& shape = setup.shape;
  const Window window;
  const MemoryLayout layout = LayoutOf(setup.memory, shape, window, DType::kF32);
  const auto sequences = static_cast<size_t>(setup.sequences);
  const size_t tokens = sequences * static_cast<size_t>(setup.tokens);
  const auto floats = [&](int heads, int dim) {
    return sizeof(float) * tokens * static_cast<size_t>(heads) * static_cast<size_t>(dim);
  };
  const Memory slots(layout.bytes * sequences), q(floats(shape.query_heads, shape.key_dim)),
      k(floats(shape.key_heads * EntryCount(setup.memory), shape.key_dim)),
      e(floats(shape.heads * std::max(1, OwnKeyCount(setup.memory)), shape.key_dim)),
      v(floats(shape.value_heads, shape.value_dim)), log_decay(floats(shape.heads, shape.key_dim)),
      beta(floats(shape.heads, 1)), o(floats(shape.output_heads(), shape.value_dim)),
      rows(sizeof(Row) * sequences), health(sizeof(StateHealth) * sequences),
      counters(sizeof(uint32_t) * (kCounters + sequences));
  q.Fill(-0.1f, 0.1f);
  k.Fill(-0.1f, 0.1f);
  e.Fill(-0.1f, 0.1f);
  v.Fill(-1, 1);
  log_decay.Fill(-0.2f, 0);
  beta.Fill(0, 1);
  std::vector<Row> host_rows;
  for (int s = 0; s < setup.sequences; ++s) {
    host_rows.push_back({s, s * setup.tokens, setup.tokens, 0});
  }
  Check(cudaMemcpy(rows.As<Row>(), host_rows.data(), sizeof(Row) * sequences,
                   cudaMemcpyHostToDevice));
  CudaScratch scratch;
  CudaStep step;
  step.row_count = setup.sequences;
  step.token_count = static_cast<int>(tokens);
  step.max_row_tokens = setup.tokens;
  step.rows = rows.As<Row>();
  step.host_rows = setup.mode == Mode::kSingly ? nullptr : host_rows.data();
  step.activations = setup.mode == Mode::kExact ? DType::kF32 : DType::kBF16;
  step.health = health.As<StateHealth>();
  step.health_stride = setup.sequences;
  step.scratch = &scratch;
  step.counters = counters.As<uint32_t>();
  AdvanceArgs args;
  args.memory = setup.memory;
  args.shape = shape;
  args.window = window;
  args.slots = {slots.As<std::byte>(), layout.bytes};
  args.q = q.As<float>();
  args.k = k.As<float>();
  args.e = e.As<float>();
  args.v = v.As<float>();
  args.log_decay = log_decay.As<float>();
  args.beta = beta.As<float>();
  args.o = o.As<float>();
  scratch.Take(size_t{3} << 30);  // allocations cannot be captured
  return MedianReplay([&](cudaStream_t stream) {
           step.stream = stream;
           for (int layer = 0; layer < kLayers; ++layer) {
             CudaAdvance(args, step);
           }
         }) /
         kLayers;
}

double Operations(const Setup& setup) {
  const bool erases = VisitMemory(
      setup.memory, []<class Memory>() { return Memory::kEntries[0].erase != Erase::kNothing; });
  const MemoryShape& shape = setup.shape;
  return (erases ? 6.0 : 4.0) * shape.key_dim * shape.value_dim * shape.heads * setup.tokens *
         setup.sequences;
}

void Print(const Setup& setup, double seconds, bool json) {
  std::printf(json ? "{\"memory\": \"%s\", \"heads\": %d, \"key_dim\": %d, \"value_dim\": %d, "
                     "\"tokens\": %d, \"sequences\": %d, \"mode\": \"%s\", \"us\": %.1f, "
                     "\"operations_per_second\": %.4g}\n"
                   : "%-22s %2d x %3d x %3d %6d tokens x %2d %-6s %9.1f us %9.3g operations/s\n",
              Name(setup.memory), setup.shape.heads, setup.shape.key_dim, setup.shape.value_dim,
              setup.tokens, setup.sequences, kModes[static_cast<int>(setup.mode)], seconds * 1e6,
              Operations(setup) / seconds);
  std::fflush(stdout);
}

void Run(const Options& options) {
  cudaDeviceProp device;
  Check(cudaGetDeviceProperties(&device, 0));
  constexpr int kSide = 8192;
  const double product = ProductSeconds(kSide, kSide, kSide);
  std::printf(options.json ? "{\"device\": \"%s\", \"dense_bf16\": %.4g}\n"
                           : "%s, dense bf16 products %.4g operations/s\n",
              device.name, 2.0 * kSide * kSide * kSide / product);
  for (const MemoryKind memory : kMemoryKinds) {
    const bool served = VisitMemory(memory, []<class Memory>() { return InChunks<Memory>; });
    if (served && (options.memory.empty() || options.memory == Name(memory))) {
      for (const Mode mode : {Mode::kFast, Mode::kExact, Mode::kSingly}) {
        const Setup setup = {memory, ShapeOf(memory), options.tokens, options.sequences, mode};
        Print(setup, Measure(setup), options.json);
      }
    }
  }
}

}  // namespace
}  // namespace evenflow

int main(int argc, char** argv) {
  evenflow::Options options;
  for (int i = 1; i < argc; ++i) {
    const bool has_value = i + 1 < argc;
    if (std::strcmp(argv[i], "--json") == 0) {
      options.json = true;
    } else if (std::strcmp(argv[i], "--memory") == 0 && has_value) {
      options.memory = argv[++i];
    } else if (std::strcmp(argv[i], "--tokens") == 0 && has_value) {
      options.tokens = std::max(1, std::atoi(argv[++i]));
    } else if (std::strcmp(argv[i], "--sequences") == 0 && has_value) {
      options.sequences = std::max(1, std::atoi(argv[++i]));
    } else {
      std::fprintf(stderr,
                   "usage: bench_cuda_prefill [--json] [--memory NAME] [--tokens N] "
                   "[--sequences N]\n");
      return 2;
    }
  }
  evenflow::Run(options);
  return 0;
}
