// The contract of a recurrent memory: what kernels/memories/*.h declare, and the shapes around it.
//
// Per head, with a state S [d_k, d_v] (key-major, value contiguous), every memory served here is
//     S <- decay(S);   for each entry of the token: u = [v] - [S^T e], S <- S + w u^T;   o = S^T q
// where each of the knobs is fixed by the memory. Instead of writing S for every token, a session
// keeps S as of its last commit and a pending window of entries (w, u, cumulative log decay l):
//     S_i^T x = S_0^T (e^{l_i} x) + sum_{j <= i} u_j ((w_j e^{l_i - l_j}) . x)      x = e or q
//     fold:  S_0 <- e^{l_C} S_0 + sum_j (w_j e^{l_C - l_j}) u_j^T
// where S_0 stands at the start of the token's block of C tokens and l counts from there. Only
// differences l_i - l_j <= 0 are ever exponentiated. See kernels/README.md.
#ifndef EVENFLOW_KERNELS_MEMORY_H_
#define EVENFLOW_KERNELS_MEMORY_H_

#include <cstddef>
#include <cstdint>

#include "kernels/math/host_device.h"
#include "kernels/tensor.h"

namespace evenflow {

// Log decays below this count as this: e^-80 is nothing beside 1 in fp32, and differences of sums
// of these stay finite.
inline constexpr float kMinLogDecay = -80;

// How the state decays before each token.
enum class Decay : uint8_t {
  kNone,      // never
  kConstant,  // by a constant of the head: log decay [head]
  kScalar,    // by one number for each token and head: log decay [token, head]
  kChannel,   // by one number for each token, head and key channel: log decay [token, head, d_k]
};

// What an entry erases: S^T e, read after the decay and after the entries before it.
enum class Erase : uint8_t {
  kNothing,     // additive: u = v
  kWrittenKey,  // delta rule: e = w
  kOwnKey,      // e is an input of its own
};

// One of the rank-one writes that a token brings, in order: S <- S + w u^T with u = [v] - [S^T e],
// times beta where it writes a value and the memory has one.
struct Entry {
  bool writes_value;
  Erase erase;
};

// How many entries a memory has.
template <class Memory>
inline constexpr int kEntryCount = static_cast<int>(sizeof(Memory::kEntries) / sizeof(Entry));

// How many of its first `count` entries erase by a key of their own.
template <class Memory>
constexpr int OwnKeys(int count = kEntryCount<Memory>) {
  int own = 0;
  for (int n = 0; n < count; ++n) {
    own += Memory::kEntries[n].erase == Erase::kOwnKey ? 1 : 0;
  }
  return own;
}

// What is known of the Frobenius norm of S after T tokens with |w|, |v| <= 1, 0 <= beta <= 1 and
// decays <= 1: additive writes add up (kLinear) unless they are forgotten at a constant rate
// gamma < 1 (kConstant: 1 / (1 - gamma)); a delta rule adds at most |v|^2 to |S|^2 (kSqrt). Where
// what is erased is not what was written there may be no bound for every input (kNone).
enum class Bound : uint8_t { kConstant, kSqrt, kLinear, kNone };

// Shapes of one layer's memory. State head h reads key head h * key_heads / heads, and likewise
// value and query heads; with query_heads > heads, several queries share one state.
struct MemoryShape {
  int heads = 0;        // states
  int query_heads = 0;  // a multiple or a divisor of heads
  int key_heads = 0;    // a divisor of heads
  int value_heads = 0;  // a divisor of heads
  int key_dim = 0;      // d_k
  int value_dim = 0;    // d_v, a normaliser's column of ones included
  int banks = 0;        // of banked memories: levels of log-linear attention, nodes of a power law

  EVENFLOW_HOST_DEVICE int output_heads() const {
    return query_heads > heads ? query_heads : heads;
  }
};

// How many tokens a session holds beside its committed state. Fixed when a model is loaded.
//
// A token at position p is read from the state as of Block(p) and the entries since, whatever the
// stored state holds. The stored state lags behind by up to R tokens, so that any R newest tokens
// can be taken back; a read folds the blocks in between into each element that it loads, and stores
// the result when it is time to commit. So results depend on the position alone, bit for bit, also
// after a rollback over the start of a block.
struct Window {
  int commit = 16;   // C: tokens [mC, (m+1)C) are committed together; 1 is the classic recurrence
  int rollback = 2;  // R: that many of the newest tokens can be taken back by setting the position
  int lag = 0;  // tokens before its block that a token reads as entries too, a multiple of commit

  // Entries of a ring that is indexed by absolute position.
  EVENFLOW_HOST_DEVICE int ring() const { return commit + lag + rollback; }

  // First position of the block of the token at `position`.
  EVENFLOW_HOST_DEVICE int64_t Block(int64_t position) const { return position / commit * commit; }

  // The first entry that the token at `position` reads: all before are in its state.
  int64_t Base(int64_t position) const {
    const int64_t block = Block(position);
    return block < lag ? 0 : block - lag;
  }

  // Tokens that may be stored in the committed state once `position` tokens have been read: no
  // rollback reaches below.
  EVENFLOW_HOST_DEVICE int64_t Committed(int64_t position) const {
    return position < rollback ? 0 : Block(position - rollback);
  }

  // Tokens that are stored in the committed state once the token at `position` has been read. They
  // are folded by the pass that reads the state for it, so they lie before its base (which makes
  // a difference to Committed(position + 1) for R = 0).
  EVENFLOW_HOST_DEVICE int64_t Stored(int64_t position) const {
    const int64_t committed = Committed(position + 1);
    const int64_t block = Block(position);
    const int64_t stored = (committed < block ? committed : block) - lag;
    return stored < 0 ? 0 : stored;
  }
};

// A memory with several states a head, each read with a weight of its own (kernels/cpu/
// banked_advance.cc), says how they are kept by a type Memory::Banks with at least
//     static Window Fit(const Window& asked);   // the nearest window that it can use
//     static int Count(const MemoryShape& shape, const Window& window);   // states of a head
template <class Memory>
concept Banked = requires {
  typename Memory::Banks;
};

// A memory whose write strength depends on the written key has Strength(beta, |w|^2); beta is then
// what the model gives.
template <class Memory>
concept ScalesByKey = requires(float x) {
  {Memory::Strength(x, x)};
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MEMORY_H_
