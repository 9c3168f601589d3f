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

constexpr size_t kPartBytes = size_t{1} << 20;
constexpr size_t kPartWords = kPartBytes / sizeof(uint64_t);

size_t BufferBytes() {
  constexpr size_t kLeast = size_t{256} << 20;
  const auto cache = static_cast<size_t>(std::max(sysconf(_SC_LEVEL3_CACHE_SIZE), 0L));
  return std::max(kLeast, 4 * cache);
}

}  // namespace

struct ReadBandwidth::Impl {
  explicit Impl(int threads) : pool(threads) {}

  WorkerPool pool;
  uint64_t* data = nullptr;
  int parts = 0;
  int next = 0;                    // the part at which to go on: each is read after all the others
  std::atomic<uint64_t> total{0};  // keeps the reads alive
};

ReadBandwidth::ReadBandwidth(int threads) : impl_(std::make_unique<Impl>(threads)) {
  const size_t bytes = BufferBytes() / kPartBytes * kPartBytes;
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return;
  }
  madvise(memory, bytes, MADV_HUGEPAGE);
  impl_->data = static_cast<uint64_t*>(memory);
  impl_->parts = static_cast<int>(bytes / kPartBytes);
  // Untouched pages would all be the one page of zeros.
  impl_->pool.For(impl_->parts, [this](int part) {
    std::fill_n(impl_->data + static_cast<size_t>(part) * kPartWords, kPartWords, uint64_t{1});
  });
}

ReadBandwidth::~ReadBandwidth() {
  if (impl_->data != nullptr) {
    munmap(impl_->data, static_cast<size_t>(impl_->parts) * kPartBytes);
  }
}

double ReadBandwidth::Measure() {
  constexpr auto kDuration = std::chrono::milliseconds(100);
  constexpr int kStretches = 32;
  Impl& impl = *impl_;
  const int stretch = std::min(impl.parts, 4 * impl.pool.threads());
  double best = 0;
  const auto start = Clock::now();
  for (int i = 0; stretch > 0 && (i < kStretches || Clock::now() - start < kDuration); ++i) {
    const int first = impl.next;
    const auto before = Clock::now();
    impl.pool.For(stretch, [&](int part) {
      const auto at = static_cast<size_t>(first + part) * kPartWords;
      impl.total += HWY_DYNAMIC_DISPATCH(SumWords)(impl.data + at, kPartWords);
    });
    const std::chrono::duration<double> seconds = Clock::now() - before;
    best = std::max(best, static_cast<double>(kPartBytes) * stretch / seconds.count());
    impl.next = first + 2 * stretch <= impl.parts ? first + stretch : 0;
  }
  return best;
}

}  // namespace evenflow

#endif  // HWY_ONCE
