// The levels of log-linear attention, for host and device. Pure functions: any thread.
//
// Seen from token i, the past falls into buckets of the powers of two that i is a sum of (a Fenwick
// tree): token j lies in level bit_length(i xor j), and a level l > 0 that is not empty holds
// 2^(l-1) tokens. Within a block of 2^c tokens, aligned, the buckets before the block do not
// change: they are a head's banks, one for each level above c.
#ifndef EVENFLOW_KERNELS_MATH_FENWICK_H_
#define EVENFLOW_KERNELS_MATH_FENWICK_H_

#include <cstdint>

#include "kernels/math/host_device.h"
#include "kernels/memory.h"

namespace evenflow {

EVENFLOW_HOST_DEVICE inline int BitLength(uint64_t x) {
#ifdef __CUDA_ARCH__
  return 64 - __clzll(static_cast<long long>(x));
#else
  return x == 0 ? 0 : 64 - __builtin_clzll(x);
#endif
}

struct FenwickBanks {
  int top = 0;           // the highest level: what outgrows it stays in it
  int block_level = 0;   // c
  bool forgets = false;  // what outgrows the top level is forgotten instead; takes top > c

  EVENFLOW_HOST_DEVICE static FenwickBanks Of(const MemoryShape& shape, const Window& window,
                                              bool forgets) {
    return {shape.banks - 1, BitLength(static_cast<uint64_t>(window.commit)) - 1, forgets};
  }

  // Blocks must be powers of two, and what can be taken back must not be more than a block: so one
  // block at most waits to be taken in.
  static Window Fit(const Window& asked) {
    const int least = asked.commit < asked.rollback ? asked.rollback : asked.commit;
    Window fitting = asked;
    fitting.commit = 1 << BitLength(static_cast<uint64_t>(least - 1));
    return fitting;
  }

  static int Count(const MemoryShape& shape, const Window& window) {
    return Of(shape, window, false).count();
  }

  EVENFLOW_HOST_DEVICE int count() const { return top > block_level ? top - block_level : 1; }

  // The level of token j <= i as token i reads it.
  EVENFLOW_HOST_DEVICE int Level(int64_t i, int64_t j) const {
    const int level = BitLength(static_cast<uint64_t>(i ^ j));
    return level < top ? level : top;
  }

  EVENFLOW_HOST_DEVICE int LevelOf(int bank) const {
    const int level = block_level + 1 + bank;
    return level < top ? level : top;
  }

  // Whether a bank holds anything when that many blocks have been taken in.
  EVENFLOW_HOST_DEVICE bool Live(int bank, int64_t blocks) const {
    const int64_t rest = blocks >> bank;
    return bank + 1 == count() && !forgets ? rest != 0 : (rest & 1) != 0;
  }

  // The bank that takes in the block after that many, together with all that is in the banks below
  // it, as a binary counter carries; count(): it is forgotten with them.
  EVENFLOW_HOST_DEVICE int Target(int64_t blocks) const {
    const int last = forgets ? count() : count() - 1;
    int bank = 0;
    while (bank < last && (blocks >> bank & 1) != 0) {
      ++bank;
    }
    return bank;
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MATH_FENWICK_H_
