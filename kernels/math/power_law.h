// VORT's kernel and the sum of exponentials that stands for it, for host and device. Pure
// functions: any thread.
//
// A token written k tokens ago with exponent alpha counts w_k(alpha) = Gamma(k + alpha) /
// (Gamma(alpha) k!), a power law k^(alpha-1) / Gamma(alpha) for large k (arXiv 2605.08966,
// equations 2 to 5). From some k on, w_k(alpha) is about sum_j c_j(alpha) e^{-s_j k}: a state for
// each node s_j keeps that.
#ifndef EVENFLOW_KERNELS_MATH_POWER_LAW_H_
#define EVENFLOW_KERNELS_MATH_POWER_LAW_H_

#include <cmath>
#include <cstdint>

#include "kernels/math/host_device.h"
#include "kernels/memory.h"

namespace evenflow {

// w_k / w_{k-1}; w_0 = 1.
EVENFLOW_HOST_DEVICE inline float PowerLawRatio(float alpha, int k) {
  return (static_cast<float>(k - 1) + alpha) / static_cast<float>(k);
}

// The nodes, and their coefficients in a table over alpha. Device memory.
struct PowerLaw {
  static constexpr int kPoints = 513;  // alpha_min to 1

  int nodes = 0;
  float alpha_min = 0;
  const float* rates = nullptr;         // s_j, [nodes]
  const float* coefficients = nullptr;  // c_j >= 0, [kPoints, nodes]

  // c_j(alpha), linear between the points.
  EVENFLOW_HOST_DEVICE float Coefficient(int node, float alpha) const {
    const float at = (alpha - alpha_min) / (1.0f - alpha_min) * (kPoints - 1);
    const int point = !(at > 0) ? 0 : at < kPoints - 2 ? static_cast<int>(at) : kPoints - 2;
    const float part = at - static_cast<float>(point);
    const float* c = coefficients + int64_t{point} * nodes + node;
    return c[0] + part * (c[nodes] - c[0]);
  }
};

// A head's banks, one for each node: S_j = sum_i c_j(alpha_i) e^{-s_j (p_j - i)} k_i v_i^T, where
// p_j is a position that moves on when the state has decayed enough for fp32 to see it.
struct PowerLawBanks {
  static PowerLawBanks Of(const MemoryShape& /*shape*/, const Window& /*window*/,
                          bool /*forgets*/) {
    return {};
  }

  // Short lags need many nodes, so entries count exactly for at least a block after their own. What
  // can be taken back is not more than a block: so one block at most waits to be taken in.
  static Window Fit(const Window& asked) {
    constexpr int kMinCommit = 16;
    const int least = asked.rollback < kMinCommit ? kMinCommit : asked.rollback;
    Window fitting = asked;
    fitting.commit = asked.commit < least ? least : asked.commit;
    fitting.lag = fitting.commit;
    return fitting;
  }

  static int Count(const MemoryShape& shape, const Window& /*window*/) { return shape.banks; }

  // Whether a bank holds anything when that many blocks have been taken in.
  EVENFLOW_HOST_DEVICE bool Live(int /*bank*/, int64_t blocks) const { return blocks > 0; }

  // p_j, when tokens before `position`, the start of a block, have been taken in.
  EVENFLOW_HOST_DEVICE static int64_t Reference(float rate, int64_t position, int commit) {
    constexpr float kLeastDecay = 0x1p-10f;
    constexpr float kMostBlocks = 0x1p40f;
    const float blocks = kLeastDecay / (rate * static_cast<float>(commit));  // inf for rate 0
    const int64_t period =
        commit *
        (blocks < 1 ? 1 : static_cast<int64_t>(blocks < kMostBlocks ? blocks : kMostBlocks));
    return position / period * period;
  }

  // e^{-s n}; n is negative by less than a reference's period at most.
  EVENFLOW_HOST_DEVICE static float Decay(float rate, int64_t tokens) {
    return std::exp(static_cast<float>(-static_cast<double>(rate) * static_cast<double>(tokens)));
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MATH_POWER_LAW_H_
