// Times the CPU's product against what the machine can do: the read bandwidth of its memory for few
// rows, its multiply-add rate for many. bench_matmul [--threads N] [--fp32] [--json]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/bandwidth.h"
#include "kernels/cpu/step.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/matmul.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();

namespace evenflow {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Independent multiply-adds in registers; returns how many floating-point operations it did.
double MultiplyAdds(int rounds, float* out) {
  const hn::ScalableTag<float> d;
  const auto x = hn::Set(d, 0.999f);
  const auto y = hn::Set(d, 0.001f);
  auto a0 = x, a1 = x, a2 = x, a3 = x, a4 = x, a5 = x, a6 = x, a7 = x, a8 = x, a9 = x;
  for (int i = 0; i < rounds; ++i) {
    a0 = hn::MulAdd(a0, x, y);
    a1 = hn::MulAdd(a1, x, y);
    a2 = hn::MulAdd(a2, x, y);
    a3 = hn::MulAdd(a3, x, y);
    a4 = hn::MulAdd(a4, x, y);
    a5 = hn::MulAdd(a5, x, y);
    a6 = hn::MulAdd(a6, x, y);
    a7 = hn::MulAdd(a7, x, y);
    a8 = hn::MulAdd(a8, x, y);
    a9 = hn::MulAdd(a9, x, y);
  }
  const auto sum = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9;
  *out = hn::GetLane(hn::SumOfLanes(d, sum));
  return 10.0 * 2.0 * static_cast<double>(hn::Lanes(d)) * rounds;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace evenflow

HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace evenflow {

HWY_EXPORT(MultiplyAdds);

namespace {

using Clock = std::chrono::steady_clock;

// Runs run() until 0.3 s have passed, at least 3 times; the best time in seconds.
template <class Run>
double BestSeconds(const Run& run) {
  double best = 1e9;
  const auto start = Clock::now();
  for (int i = 0; i < 3 || Clock::now() - start < std::chrono::milliseconds(300); ++i) {
    const auto before = Clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - before).count());
  }
  return best;
}

// Floating-point operations per second of all threads together.
double MeasureMultiplyAdds(WorkerPool& pool) {
  constexpr int kRounds = 200'000;
  std::vector<float> out(static_cast<size_t>(pool.threads()) * 16);
  double operations = 0;
  const double seconds = BestSeconds([&] {
    pool.For(pool.threads(), [&](int i) {
      const double done =
          HWY_DYNAMIC_DISPATCH(MultiplyAdds)(kRounds, &out[static_cast<size_t>(i) * 16]);
      if (i == 0) {
        operations = done;
      }
    });
  });
  return operations * pool.threads() / seconds;
}

struct Shape {
  int64_t outputs, inputs;
};

// Seconds of one product. Successive products read different copies of the weights, so that few
// rows find none in the caches.
double TimeProduct(const Shape& shape, int rows, DType dtype, WorkerPool& pool) {
  constexpr size_t kLeastBytes = size_t{256} << 20;
  const size_t bytes = static_cast<size_t>(shape.outputs * shape.inputs) * ByteSize(dtype);
  const size_t copies = rows > 16 ? 1 : (kLeastBytes + bytes - 1) / bytes;
  // Any finite numbers do: 0x3c3c is 0.0115 as bf16, and about that as either half of a float.
  const std::vector<uint16_t> weights(bytes * copies / 2, 0x3c3c);
  const std::vector<float> x(static_cast<size_t>(rows * shape.inputs), 0.5f);
  std::vector<float> y(static_cast<size_t>(rows * shape.outputs));
  CpuStep step;
  step.tokens.resize(static_cast<size_t>(rows));
  size_t copy = 0;
  return BestSeconds([&] {
    MatMulArgs args;
    args.x = {const_cast<float*>(x.data()), DType::kF32, shape.inputs};
    args.w = {weights.data() + copy * bytes / 2, dtype, shape.outputs, shape.inputs};
    args.y = {y.data(), DType::kF32, shape.outputs};
    CpuMatMul(args, step, pool);
    copy = (copy + 1) % copies;
  });
}

int Main(int threads, DType dtype, bool json) {
  WorkerPool pool(threads);
  const double bandwidth = ReadBandwidth(pool.threads()).Measure();
  const double rate = MeasureMultiplyAdds(pool);
  if (json) {
    std::printf(
        "{\"threads\": %d, \"dtype\": \"%s\", \"read_bytes_per_second\": %.4g, "
        "\"flop_per_second\": %.4g, \"products\": [",
        pool.threads(), Name(dtype), bandwidth, rate);
  } else {
    std::printf("%d threads, %s weights; the machine reads %.1f GB/s, computes %.1f GFLOP/s\n",
                pool.threads(), Name(dtype), bandwidth / 1e9, rate / 1e9);
    std::printf("%8s %8s %6s %10s %8s %8s %10s %8s\n", "outputs", "inputs", "rows", "us", "GB/s",
                "of read", "GFLOP/s", "of peak");
  }
  const char* separator = "";
  for (const Shape& shape : {Shape{2048, 2048}, Shape{5632, 2048}, Shape{32000, 1024}}) {
    for (const int rows : {1, 4, 16, 64, 256}) {
      const double seconds = TimeProduct(shape, rows, dtype, pool);
      const double elements = static_cast<double>(shape.outputs * shape.inputs);
      const double read = elements * static_cast<double>(ByteSize(dtype)) / seconds;
      const double done = 2 * elements * rows / seconds;
      if (json) {
        std::printf(
            "%s\n  {\"outputs\": %ld, \"inputs\": %ld, \"rows\": %d, \"seconds\": %.4g, "
            "\"read_fraction\": %.3f, \"flop_fraction\": %.3f}",
            separator, shape.outputs, shape.inputs, rows, seconds, read / bandwidth, done / rate);
        separator = ",";
      } else {
        std::printf("%8ld %8ld %6d %10.1f %8.1f %7.0f%% %10.1f %7.0f%%\n", shape.outputs,
                    shape.inputs, rows, seconds * 1e6, read / 1e9, 100 * read / bandwidth,
                    done / 1e9, 100 * done / rate);
      }
    }
  }
  std::printf("%s", json ? "\n]}\n" : "");
  return 0;
}

}  // namespace
}  // namespace evenflow

int main(int argc, char** argv) {
  int threads = 0;
  bool json = false;
  auto dtype = evenflow::DType::kBF16;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0) {
      json = true;
    } else if (std::strcmp(argv[i], "--fp32") == 0) {
      dtype = evenflow::DType::kF32;
    } else if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc) {
      threads = std::atoi(argv[++i]);
    } else {
      std::fprintf(stderr, "usage: bench_matmul [--threads N] [--fp32] [--json]\n");
      return 2;
    }
  }
  return evenflow::Main(threads, dtype, json);
}

#endif  // HWY_ONCE
