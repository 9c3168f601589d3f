// Containers that overwrite their memory when they give it back: token ids and text of a session do
// not stay in the heap after it. No thread rules of its own.
#ifndef EVENFLOW_ENGINE_WIPED_H_
#define EVENFLOW_ENGINE_WIPED_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <string.h>

namespace evenflow {

// `Upstream` gets the memory back, all of its bytes zero.
template <class T, class Upstream = std::allocator<T>>
struct WipingAllocator {
  using value_type = T;

  template <class U>
  struct rebind {
    using other =
        WipingAllocator<U, typename std::allocator_traits<Upstream>::template rebind_alloc<U>>;
  };

  WipingAllocator() = default;

  template <class U, class V>
  WipingAllocator(const WipingAllocator<U, V>& /*other*/) {}  // NOLINT: allocators convert

  T* allocate(size_t count) { return Upstream().allocate(count); }

  void deallocate(T* data, size_t count) {
    explicit_bzero(static_cast<void*>(data), count * sizeof(T));
    Upstream().deallocate(data, count);
  }

  friend bool operator==(const WipingAllocator& /*a*/, const WipingAllocator& /*b*/) {
    return true;
  }
};

template <class T>
using WipedVector = std::vector<T, WipingAllocator<T>>;

// For what is kept in an ordinary container, before it goes. Its capacity, not only what it holds.
inline void Wipe(std::string& text) {
  text.resize(text.capacity());
  explicit_bzero(text.data(), text.size());
  text.clear();
}

inline void Wipe(std::vector<int32_t>& ids) {
  ids.resize(ids.capacity());
  if (!ids.empty()) {
    explicit_bzero(ids.data(), ids.size() * sizeof(int32_t));
  }
  ids.clear();
}

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_WIPED_H_
