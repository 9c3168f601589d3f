// What goes back to the heap is zero, also what a container gives back as it grows.
#include "engine/wiped.h"

#include <algorithm>
#include <deque>
#include <string>

#include <gtest/gtest.h>

namespace evenflow {
namespace {

int64_t returned_bytes = 0;
int64_t nonzero_bytes = 0;

// Counts what it gets back.
template <class T>
struct Recorder {
  using value_type = T;

  Recorder() = default;

  template <class U>
  Recorder(const Recorder<U>& /*other*/) {}  // NOLINT: allocators convert

  T* allocate(size_t count) { return std::allocator<T>().allocate(count); }

  void deallocate(T* data, size_t count) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(data);
    returned_bytes += static_cast<int64_t>(count * sizeof(T));
    nonzero_bytes += std::count_if(bytes, bytes + count * sizeof(T), [](auto b) { return b != 0; });
    std::allocator<T>().deallocate(data, count);
  }
};

template <class T>
using Wiping = WipingAllocator<T, Recorder<T>>;

TEST(WipedTest, MemoryGoesBackAsZeros) {
  returned_bytes = nonzero_bytes = 0;
  {
    std::vector<int32_t, Wiping<int32_t>> ids;
    std::deque<int32_t, Wiping<int32_t>> queue;
    for (int32_t i = 1; i < 2000; ++i) {
      ids.push_back(i);
      queue.push_back(i);
      if (i % 3 == 0) {
        queue.pop_front();
      }
    }
    ids.resize(3);
    ids.shrink_to_fit();
  }
  EXPECT_GE(returned_bytes, 2 * 2000 * 4);
  EXPECT_EQ(nonzero_bytes, 0);
}

TEST(WipedTest, OrdinaryContainersLoseAllTheyEverHeld) {
  std::string text(100, 'x');
  const char* const at = text.data();
  text.erase(10);
  Wipe(text);
  EXPECT_TRUE(text.empty());
  ASSERT_EQ(text.data(), at);  // the memory is there still
  EXPECT_TRUE(std::all_of(at, at + 100, [](char c) { return c == 0; }));

  std::vector<int32_t> ids(100, 7);
  const int32_t* const first = ids.data();
  ids.resize(10);
  Wipe(ids);
  EXPECT_TRUE(ids.empty());
  ASSERT_EQ(ids.data(), first);
  EXPECT_TRUE(std::all_of(first, first + 100, [](int32_t id) { return id == 0; }));

  std::vector<int32_t> none;
  Wipe(none);
  EXPECT_TRUE(none.empty());
}

}  // namespace
}  // namespace evenflow
