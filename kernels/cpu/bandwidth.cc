#include "kernels/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include <sys/mman.h>
#include <unistd.h>

#include "kernels/cpu/worker_pool.h"

namespace evenflow {
namespace {

using Clock = std::chrono::steady_clock;

uint64_t SumOf(const uint64_t* data, size_t count) {
  uint64_t sum[8] = {};
  for (size_t i = 0; i < count; i += 8) {
    for (size_t j = 0; j < 8; ++j) {
      sum[j] += data[i + j];
    }
  }
  return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

size_t BufferBytes() {
  constexpr size_t kLeast = size_t{256} << 20;
  const auto cache = static_cast<size_t>(std::max(sysconf(_SC_LEVEL3_CACHE_SIZE), 0L));
  return std::max(kLeast, 4 * cache);
}

}  // namespace

double MeasureReadBandwidth(int threads) {
  constexpr size_t kPartBytes = size_t{1} << 20;
  constexpr auto kDuration = std::chrono::milliseconds(400);
  constexpr int kPasses = 5;
  const size_t bytes = BufferBytes() / kPartBytes * kPartBytes;
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return 0;
  }
  madvise(memory, bytes, MADV_HUGEPAGE);
  auto* const data = static_cast<uint64_t*>(memory);
  constexpr size_t kPartWords = kPartBytes / sizeof(uint64_t);
  const int parts = static_cast<int>(bytes / kPartBytes);
  WorkerPool pool(threads);
  // Untouched pages would all be the one page of zeros.
  pool.For(parts, [&](int part) {
    std::fill_n(data + static_cast<size_t>(part) * kPartWords, kPartWords, uint64_t{1});
  });
  std::atomic<uint64_t> total{0};  // keeps the reads alive
  double best = 0;
  const auto start = Clock::now();
  for (int pass = 0; pass < kPasses || Clock::now() - start < kDuration; ++pass) {
    const auto before = Clock::now();
    pool.For(parts, [&](int part) {
      total += SumOf(data + static_cast<size_t>(part) * kPartWords, kPartWords);
    });
    const std::chrono::duration<double> seconds = Clock::now() - before;
    best = std::max(best, static_cast<double>(bytes) / seconds.count());
  }
  munmap(memory, bytes);
  return total.load() == 0 ? 0 : best;
}

}  // namespace evenflow
