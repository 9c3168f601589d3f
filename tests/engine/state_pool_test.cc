// The state pool against a naive simulator, and what its invariants promise.
#include "engine/state_pool.h"

#include <cstring>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/fake_device.h"

namespace evenflow {
namespace {

constexpr size_t kSlotBytes = sizeof(FakeState);

std::byte* SlotOf(const StatePool& pool, SlotHandle handle) {
  return pool.slots().base + static_cast<size_t>(handle.index) * kSlotBytes;
}

TEST(StatePool, RefusesWhatDoesNotFit) {
  FakeDevice device;
  device.out_of_memory = true;
  EXPECT_EQ(StatePool::Create(device, kSlotBytes, {4, 4}).status().code(),
            absl::StatusCode::kResourceExhausted);
  device.out_of_memory = false;
  EXPECT_EQ(StatePool::Create(device, SIZE_MAX / 4, {4, 4}).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(StatePool::Create(device, kSlotBytes, {0, 0}).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(StatePool, FitsIntoTheFreeMemory) {
  FakeDevice device;
  const auto fit = [&device](size_t slot_bytes, PoolSize wanted) {
    const PoolSize size = FitPool(device, slot_bytes, wanted);
    return std::pair(size.sessions, size.checkpoints);
  };
  EXPECT_EQ(fit(1000, {0, 0}), std::pair(64, 64)) << "memory that costs nothing until it is used";
  EXPECT_EQ(fit(1000, {5, 0}), std::pair(5, 5));
  EXPECT_EQ(fit(1000, {5, 2}), std::pair(5, 2));
  device.free_bytes = 8000;  // of which an eighth is left for other things
  EXPECT_EQ(fit(100, {0, 0}), std::pair(62, 8));
  EXPECT_EQ(fit(100, {0, 1}), std::pair(69, 1));
  EXPECT_EQ(fit(100, {9, 0}), std::pair(9, 2));
  EXPECT_EQ(fit(100, {0, 100}).first, 0) << "and StatePool::Create says so";
  EXPECT_EQ(fit(7001, {0, 0}).first, 0);
  device.free_bytes = size_t{80} << 30;
  const auto [sessions, checkpoints] = fit(size_t{111} << 20, {0, 0});
  const size_t bytes = static_cast<size_t>(sessions + checkpoints) * (size_t{111} << 20);
  EXPECT_LE(bytes, device.free_bytes - (size_t{1} << 30));
  EXPECT_GT(bytes, device.free_bytes - (size_t{1} << 30) - (size_t{2} * 111 << 20));
}

// Every slot in use holds the byte its tenant wrote, every other one zeros; indices and generations
// are compared with sets.
TEST(StatePool, AgreesWithANaiveSimulator) {
  constexpr int kSessions = 7;
  FakeDevice device;
  auto pool = *StatePool::Create(device, kSlotBytes, {kSessions, kSessions});

  struct Tenant {
    SlotHandle handle;
    unsigned char mark;
  };

  std::vector<Tenant> tenants[2];  // sessions, checkpoints
  std::vector<SlotHandle> past;
  std::set<std::pair<int32_t, uint64_t>> seen;
  std::mt19937 random(1);
  unsigned char next_mark = 1;
  for (int i = 0; i < 20000; ++i) {
    const bool checkpoint = random() % 2 == 1;
    std::vector<Tenant>& mine = tenants[checkpoint ? 1 : 0];
    const auto action = random() % 3;
    if (action == 0) {
      const auto handle = checkpoint ? pool->AcquireCheckpoint() : pool->Acquire();
      ASSERT_EQ(handle.has_value(), mine.size() < kSessions);
      if (!handle) {
        continue;
      }
      ASSERT_TRUE(seen.insert({handle->index, handle->generation}).second) << "a handle came twice";
      ASSERT_EQ(handle->index >= kSessions, checkpoint);
      for (size_t byte = 0; byte < kSlotBytes; ++byte) {
        ASSERT_EQ(SlotOf(*pool, *handle)[byte], std::byte{0}) << "a tenant's byte was left";
      }
      next_mark = static_cast<unsigned char>(next_mark % 255 + 1);
      std::memset(SlotOf(*pool, *handle), next_mark, kSlotBytes);
      mine.push_back({*handle, next_mark});
    } else if (action == 1 && !mine.empty()) {
      const size_t victim = random() % mine.size();
      pool->Release(mine[victim].handle);
      past.push_back(mine[victim].handle);
      mine.erase(mine.begin() + static_cast<std::ptrdiff_t>(victim));
    } else if (action == 2 && !tenants[0].empty() && !tenants[1].empty()) {
      Tenant& to = tenants[1][random() % tenants[1].size()];
      const Tenant& from = tenants[0][random() % tenants[0].size()];
      pool->Copy(to.handle, from.handle);
      to.mark = from.mark;
    }
    ASSERT_EQ(pool->used(), static_cast<int>(tenants[0].size()));
    ASSERT_EQ(pool->free(), kSessions - static_cast<int>(tenants[0].size()));
    for (const auto& kind : tenants) {
      for (const Tenant& tenant : kind) {
        ASSERT_TRUE(pool->IsCurrent(tenant.handle));
        ASSERT_EQ(SlotOf(*pool, tenant.handle)[kSlotBytes / 2], std::byte{tenant.mark});
      }
    }
    if (!past.empty()) {
      ASSERT_FALSE(pool->IsCurrent(past[random() % past.size()]));
    }
  }
  EXPECT_EQ(device.DirtySlots(), static_cast<int>(tenants[0].size() + tenants[1].size()));
}

TEST(StatePoolDeathTest, StaleHandlesAreABug) {
  FakeDevice device;
  auto pool = *StatePool::Create(device, kSlotBytes, {1, 1});
  const SlotHandle handle = *pool->Acquire();
  pool->Release(handle);
  EXPECT_DEATH(pool->Release(handle), "");
}

}  // namespace
}  // namespace evenflow
