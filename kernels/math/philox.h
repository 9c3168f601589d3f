// Philox4x32-10 (Salmon et al., SC 2011): a counter and a key become four random words. No state,
// so a draw depends on its key alone. Pure functions; host and device.
#ifndef EVENFLOW_KERNELS_MATH_PHILOX_H_
#define EVENFLOW_KERNELS_MATH_PHILOX_H_

#include <cstdint>

#include "kernels/math/host_device.h"

namespace evenflow {

struct PhiloxWords {
  uint32_t word[4];
};

EVENFLOW_HOST_DEVICE inline PhiloxWords Philox4x32(PhiloxWords counter, uint32_t key0,
                                                   uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter.word[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0,
                static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1,
                static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// The draw of a stream for the token at `position`, uniform in [0, 1) with 53 bits.
EVENFLOW_HOST_DEVICE inline double UniformAt(uint64_t seed, int64_t position) {
  const auto counter = static_cast<uint64_t>(position);
  const PhiloxWords words =
      Philox4x32({{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0}},
                 static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const uint64_t bits = (uint64_t{words.word[1]} << 32) | words.word[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MATH_PHILOX_H_
