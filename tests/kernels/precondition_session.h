// One session's slot of VLA's stage before the memory, advanced by the CPU's operation alone. Of a
// test, one thread.
#ifndef EVENFLOW_TESTS_KERNELS_PRECONDITION_SESSION_H_
#define EVENFLOW_TESTS_KERNELS_PRECONDITION_SESSION_H_

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/step.h"

namespace evenflow {

// What tokens bring, and what the stage makes of it.
struct Tokens {
  int count = 0;
  std::vector<float> k, q, beta, w, e;  // as PreconditionArgs has them
};

inline std::vector<float> Normal(size_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> all(count);
  std::generate(all.begin(), all.end(), [&] { return normal(random); });
  return all;
}

inline Tokens RandomTokens(const Preconditioner& of, int count, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(0, 1);
  const size_t heads = static_cast<size_t>(count) * static_cast<size_t>(of.heads);
  Tokens tokens;
  tokens.count = count;
  tokens.k = Normal(heads * static_cast<size_t>(of.key_dim), random);
  tokens.q = Normal(tokens.k.size(), random);
  tokens.beta.resize(heads);
  std::generate(tokens.beta.begin(), tokens.beta.end(), [&] { return uniform(random); });
  return tokens;
}

// One session's slot.
class Session {
 public:
  Session(const Preconditioner& of, const Window& window, int threads = 1)
      : of_(of), window_(window), layout_(LayoutOf(of, window)), pool_(threads) {
    memory_.resize(layout_.bytes + 64);
    base_ = memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64;
    // Nothing but what the stage wrote itself may be read.
    std::memset(base_, 0xff, layout_.bytes);
    std::mt19937 random(99);
    const auto dim = static_cast<size_t>(of.key_dim);
    u_weight_ = Normal(static_cast<size_t>(of.heads) * dim * dim, random);
  }

  // Tokens [begin, end) of `tokens`, at their positions, in one step.
  void Step(Tokens* tokens, int begin, int end) {
    const auto heads = static_cast<size_t>(of_.heads);
    const auto dim = static_cast<size_t>(of_.key_dim);
    const size_t entries = of_.mode == PreconditionMode::kRls ? 2 : 1;
    tokens->w.resize(tokens->k.size() * entries);
    tokens->e.resize(tokens->w.size());
    const size_t first = static_cast<size_t>(begin) * heads;
    step_.rows = {{0, 0, end - begin, begin}};
    step_.output.memory_layers = 1;
    step_.output.health.assign(1, {});
    PreconditionArgs args;
    args.preconditioner = of_;
    args.window = window_;
    args.slots = {base_, layout_.bytes};
    args.u_weight = u_weight_.data();
    args.k = tokens->k.data() + first * dim;
    args.q = tokens->q.data() + first * dim;
    args.beta = tokens->beta.data() + first;
    args.w = tokens->w.data() + first * entries * dim;
    args.e = tokens->e.data() + first * entries * dim;
    CpuPrecondition(args, step_, pool_);
  }

  void Run(Tokens* tokens, int chunk) {
    for (int at = 0; at < tokens->count; at += chunk) {
      Step(tokens, at, std::min(tokens->count, at + chunk));
    }
  }

  // Of A, after a step.
  const StateHealth& health() const { return step_.output.health[0]; }

  // [heads, key_dim, key_dim]
  std::vector<float> StoredPlane() const {
    const auto* begin = reinterpret_cast<const float*>(base_ + layout_.plane);
    return {begin, begin + of_.heads * of_.key_dim * of_.key_dim};
  }

  std::vector<double> UWeight(int head) const {
    const auto size = static_cast<ptrdiff_t>(of_.key_dim) * of_.key_dim;
    return {u_weight_.begin() + head * size, u_weight_.begin() + (head + 1) * size};
  }

 private:
  const Preconditioner of_;
  const Window window_;
  const PreconditionLayout layout_;
  WorkerPool pool_;
  CpuStep step_;
  std::vector<float> u_weight_;
  std::vector<std::byte> memory_;
  std::byte* base_ = nullptr;
};

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_KERNELS_PRECONDITION_SESSION_H_
