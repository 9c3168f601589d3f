// The list of all memories. Adding one: a header beside this file and a line in EVENFLOW_MEMORIES.
#ifndef EVENFLOW_KERNELS_MEMORIES_REGISTRY_H_
#define EVENFLOW_KERNELS_MEMORIES_REGISTRY_H_

#include <cstdint>

#include "kernels/memories/delta_rule.h"
#include "kernels/memories/gated_delta_rule.h"
#include "kernels/memories/gated_linear_attention.h"
#include "kernels/memories/generalized_delta_rule.h"
#include "kernels/memories/kaczmarz_delta_rule.h"
#include "kernels/memories/kimi_delta_rule.h"
#include "kernels/memories/linear_attention.h"
#include "kernels/memories/log_linear_attention.h"
#include "kernels/memories/log_linear_delta_rule.h"
#include "kernels/memories/retention.h"
#include "kernels/memories/state_space_duality.h"
#include "kernels/memories/vla_least_squares.h"
#include "kernels/memories/vla_oblique.h"
#include "kernels/memories/vla_symmetric.h"
#include "kernels/memories/vort.h"

#define EVENFLOW_MEMORIES(M) \
  M(Retention)               \
  M(LinearAttention)         \
  M(DeltaRule)               \
  M(GatedDeltaRule)          \
  M(GatedLinearAttention)    \
  M(KimiDeltaRule)           \
  M(KaczmarzDeltaRule)       \
  M(StateSpaceDuality)       \
  M(GeneralizedDeltaRule)    \
  M(LogLinearAttention)      \
  M(LogLinearDeltaRule)      \
  M(VlaSymmetric)            \
  M(VlaOblique)              \
  M(VlaLeastSquares)         \
  M(Vort)

namespace evenflow {

enum class MemoryKind : uint8_t {
#define EVENFLOW_MEMORY_KIND(memory) k##memory,
  EVENFLOW_MEMORIES(EVENFLOW_MEMORY_KIND)
#undef EVENFLOW_MEMORY_KIND
};

inline constexpr MemoryKind kMemoryKinds[] = {
#define EVENFLOW_LISTED_KIND(memory) MemoryKind::k##memory,
    EVENFLOW_MEMORIES(EVENFLOW_LISTED_KIND)
#undef EVENFLOW_LISTED_KIND
};

template <class Memory>
inline constexpr MemoryKind kKindOf{};
#define EVENFLOW_KIND_OF(memory) \
  template <>                    \
  inline constexpr MemoryKind kKindOf<memory> = MemoryKind::k##memory;
EVENFLOW_MEMORIES(EVENFLOW_KIND_OF)
#undef EVENFLOW_KIND_OF

// Calls visit.template operator()<Memory>() with the memory of that kind and returns its result.
template <class Visitor>
constexpr decltype(auto) VisitMemory(MemoryKind kind, Visitor&& visit) {
  switch (kind) {
#define EVENFLOW_MEMORY_CASE(memory) \
  case MemoryKind::k##memory:        \
    return visit.template operator()<memory>();
    EVENFLOW_MEMORIES(EVENFLOW_MEMORY_CASE)
#undef EVENFLOW_MEMORY_CASE
  }
  __builtin_unreachable();
}

inline const char* Name(MemoryKind kind) {
  return VisitMemory(kind, []<class Memory>() { return Memory::kName; });
}

inline Decay DecayOf(MemoryKind kind) {
  return VisitMemory(kind, []<class Memory>() { return Memory::kDecay; });
}

inline bool HasBeta(MemoryKind kind) {
  return VisitMemory(kind, []<class Memory>() { return Memory::kHasBeta; });
}

inline bool IsBanked(MemoryKind kind) {
  return VisitMemory(kind, []<class Memory>() { return Banked<Memory>; });
}

// The window that a memory uses where `asked` is wished for: never shorter.
inline Window FitWindow(MemoryKind kind, const Window& asked) {
  return VisitMemory(kind, [&]<class Memory>() {
    if constexpr (Banked<Memory>) {
      return Memory::Banks::Fit(asked);
    } else {
      return asked;
    }
  });
}

// States of a head.
inline int BankCount(MemoryKind kind, const MemoryShape& shape, const Window& window) {
  return VisitMemory(kind, [&]<class Memory>() {
    if constexpr (Banked<Memory>) {
      return Memory::Banks::Count(shape, window);
    } else {
      return 1;
    }
  });
}

inline int EntryCount(MemoryKind kind) {
  return VisitMemory(kind, []<class Memory>() { return kEntryCount<Memory>; });
}

// Entries that erase by a key of their own.
inline int OwnKeyCount(MemoryKind kind) {
  return VisitMemory(kind, []<class Memory>() { return OwnKeys<Memory>(); });
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORIES_REGISTRY_H_
