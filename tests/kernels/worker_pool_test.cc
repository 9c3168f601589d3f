#include "kernels/cpu/worker_pool.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <set>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace evenflow {
namespace {

class WorkerPoolTest : public testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Threads, WorkerPoolTest, testing::Values(0, 1, 2, 3, 8));

TEST_P(WorkerPoolTest, RunsEveryTaskOnceAndReturnsWhenAllAreDone) {
  WorkerPool pool(GetParam());
  // Plain integers: a missing happens-before is a race that ThreadSanitizer sees.
  std::vector<int> runs(1000);
  for (int loop = 0; loop < 300; ++loop) {
    const int tasks = loop * 37 % 1000;
    std::fill(runs.begin(), runs.end(), 0);
    pool.For(tasks, [&](int i) { ++runs[static_cast<size_t>(i)]; });
    for (int i = 0; i < 1000; ++i) {
      ASSERT_EQ(runs[static_cast<size_t>(i)], i < tasks ? 1 : 0) << loop << ' ' << i;
    }
  }
}

TEST_P(WorkerPoolTest, ShortLoopsFollowEachOtherWithoutMixing) {
  WorkerPool pool(GetParam());
  std::vector<int64_t> data(16, 0);
  constexpr int kLoops = 5000;
  for (int loop = 0; loop < kLoops; ++loop) {
    const int tasks = 2 + loop % 15;
    pool.For(tasks, [&](int i) { data[static_cast<size_t>(i)] += loop; });
  }
  for (int i = 0; i < 16; ++i) {
    int64_t expected = 0;
    for (int loop = 0; loop < kLoops; ++loop) {
      expected += i < 2 + loop % 15 ? loop : 0;
    }
    EXPECT_EQ(data[static_cast<size_t>(i)], expected) << i;
  }
}

TEST_P(WorkerPoolTest, WakesWorkersThatHaveParked) {
  WorkerPool pool(GetParam());
  for (int loop = 0; loop < 20; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int> sum{0};
    pool.For(64, [&](int i) { sum += i; });
    EXPECT_EQ(sum.load(), 64 * 63 / 2);
  }
}

TEST(WorkerPoolTest, OneThreadIsTheCallerAlone) {
  WorkerPool pool(1);
  EXPECT_EQ(pool.threads(), 1);
  std::set<std::thread::id> ids;
  pool.For(100, [&](int) { ids.insert(std::this_thread::get_id()); });
  EXPECT_EQ(ids, std::set<std::thread::id>{std::this_thread::get_id()});
}

TEST(WorkerPoolTest, TasksRunOnSeveralThreadsAtOnce) {
  WorkerPool pool(3);
  EXPECT_EQ(pool.threads(), 3);
  std::atomic<int> here{0};
  // Each task waits for the others: this ends only when three threads take part.
  pool.For(3, [&](int) {
    ++here;
    while (here.load() < 3) {
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(here.load(), 3);
}

TEST(WorkerPoolTest, NoTasksIsNoWork) {
  WorkerPool pool(2);
  pool.For(0, [](int) { FAIL(); });
}

}  // namespace
}  // namespace evenflow
