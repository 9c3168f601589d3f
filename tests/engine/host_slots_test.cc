// Slots in host memory: how many there may be, and that they come a block at a time.
#include "engine/host_slots.h"

#include <cstring>
#include <optional>
#include <set>
#include <thread>

#include "engine/state_tiers.h"

#include "gtest/gtest.h"
#include "tests/engine/fake_device.h"

namespace evenflow {
namespace {

constexpr size_t kBlock = size_t{64} << 20;  // one slot a block, if a slot is as large

void GrowOnce(HostSlots& slots) {
  slots.Grow();
  while (slots.growing()) {
    slots.Poll();
    std::this_thread::yield();
  }
}

TEST(HostSlots, AreCountedFromBytes) {
  FakeDevice device;
  EXPECT_EQ(HostSlotCount(device, 1000, std::nullopt), 0) << "slots are host memory already";
  EXPECT_EQ(HostSlotCount(device, 1000, 5999), 5);
  EXPECT_EQ(HostSlotCount(device, 1000, 1999), 0) << "one slot serves nothing";
  device.free_bytes = 1;
  EXPECT_EQ(HostSlotCount(device, size_t{1} << 30, std::nullopt), 4);
  EXPECT_EQ(HostSlotCount(device, 1000, 0), 0);
}

TEST(HostSlots, ComeABlockAtATimeUpToTheLimit) {
  FakeDevice device;
  {
    HostSlots slots(device, kBlock, 3);
    EXPECT_EQ(slots.Acquire(), std::nullopt);
    EXPECT_EQ(device.host_blocks(), 0u) << "nothing is taken before it is needed";
    std::set<std::byte*> places;
    for (int ready = 1; ready <= 3; ++ready) {
      GrowOnce(slots);
      EXPECT_EQ(slots.ready(), ready);
      const std::optional<int> slot = slots.Acquire();
      ASSERT_TRUE(slot);
      places.insert(slots.data(*slot));
      EXPECT_EQ(slots.Acquire(), std::nullopt);
    }
    EXPECT_EQ(places.size(), 3u);
    GrowOnce(slots);
    EXPECT_EQ(device.host_blocks(), 3u);
    std::memset(slots.data(1), 7, 100);
    slots.Release(1);
    EXPECT_EQ(slots.data(1)[99], std::byte{0});
    EXPECT_EQ(slots.Acquire(), 1);
    EXPECT_EQ(slots.used(), 3);
    slots.Grow();  // and it goes while nothing or something is under way
  }
  EXPECT_EQ(device.host_blocks(), 0u);
}

TEST(HostSlots, ManySmallOnesShareABlock) {
  FakeDevice device;
  HostSlots slots(device, kBlock / 4, 6);
  GrowOnce(slots);
  EXPECT_EQ(slots.ready(), 4);
  GrowOnce(slots);
  EXPECT_EQ(slots.ready(), 6);
  std::set<std::byte*> places;
  while (const std::optional<int> slot = slots.Acquire()) {
    places.insert(slots.data(*slot));
  }
  EXPECT_EQ(places.size(), 6u);
}

TEST(HostSlots, AreAsManyAsTheSystemGives) {
  FakeDevice device;
  device.host_bytes = 2 * kBlock;
  HostSlots slots(device, kBlock, 8);
  for (int i = 0; i < 4; ++i) {
    GrowOnce(slots);
  }
  EXPECT_EQ(slots.ready(), 2);
  EXPECT_EQ(slots.limit(), 2);
}

}  // namespace
}  // namespace evenflow
