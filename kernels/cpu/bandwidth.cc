#include "kernels/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include <sys/mman.h>
#include <unistd.h>

#include "kernels/cpu/worker_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/bandwidth.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();

namespace evenflow {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// `count` words, a multiple of four vectors.
uint64_t SumWords(const uint64_t* data, size_t count) {
  const hn::ScalableTag<uint64_t> d;
  const size_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  for (size_t i = 0; i < count; i += 4 * lanes) {
    sum0 = hn::Add(sum0, hn::LoadU(d, data + i));
    sum1 = hn::Add(sum1, hn::LoadU(d, data + i + lanes));
    sum2 = hn::Add(sum2, hn::LoadU(d, data + i + 2 * lanes));
    sum3 = hn::Add(sum3, hn::LoadU(d, data + i + 3 * lanes));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace evenflow

HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace evenflow {

HWY_EXPORT(SumWords);

namespace {

using Clock = std::chrono::steady_clock;

size_t BufferBytes() {
  constexpr size_t kLeast = size_t{256} << 20;
  const auto cache = static_cast<size_t>(std::max(sysconf(_SC_LEVEL3_CACHE_SIZE), 0L));
  return std::max(kLeast, 4 * cache);
}

}  // namespace

double MeasureReadBandwidth(int threads) {
  constexpr size_t kPartBytes = size_t{1} << 20;
  constexpr auto kDuration = std::chrono::milliseconds(400);
  constexpr int kStretches = 32;
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
  // Timed in stretches so short that some of them run undisturbed on a busy machine; each is read
  // again only after all the others.
  const int stretch = std::min(parts, 4 * pool.threads());
  std::atomic<uint64_t> total{0};  // keeps the reads alive
  double best = 0;
  const auto start = Clock::now();
  int first = 0;
  for (int pass = 0; pass < kStretches || Clock::now() - start < kDuration; ++pass) {
    const auto before = Clock::now();
    pool.For(stretch, [&](int part) {
      const auto at = static_cast<size_t>(first + part) * kPartWords;
      total += HWY_DYNAMIC_DISPATCH(SumWords)(data + at, kPartWords);
    });
    const std::chrono::duration<double> seconds = Clock::now() - before;
    best = std::max(best, static_cast<double>(kPartBytes) * stretch / seconds.count());
    first = first + 2 * stretch <= parts ? first + stretch : 0;
  }
  munmap(memory, bytes);
  return total.load() == 0 ? 0 : best;
}

}  // namespace evenflow

#endif  // HWY_ONCE
