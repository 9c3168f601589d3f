// Sessions of one memory layer for tests and benchmarks: random inputs, slots, and steps through
// Advance of the linked MemoryDevice. One thread.
#ifndef EVENFLOW_TESTS_SUPPORT_MEMORY_SESSIONS_H_
#define EVENFLOW_TESTS_SUPPORT_MEMORY_SESSIONS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/cpu/step.h"

#include "tests/support/memory_device.h"

namespace evenflow {

struct MemorySetup {
  MemoryKind memory = MemoryKind::kRetention;
  MemoryShape shape;
  Window window;
  DType state_dtype = DType::kF32;
  std::optional<PreconditionMode> mode = std::nullopt;  // VLA: what comes before the memory
  double lambda0 = 0.5, mu = 0.99;                      // VLA's
  bool forgets_top = false;                             // as AdvanceArgs has it
  DType activations = DType::kF32;  // bf16: operands of a device's products may be, too

  // REQUIRES: mode.
  Preconditioner preconditioner() const;
};

// Some nodes with coefficients that sum to at most 1: alpha^(j + 1) / nodes, and one that hardly
// decays.
inline constexpr double kTestAlphaMin = 0.05;
PowerLaw TestPowerLaw();

// What the memory makes of a setup: the window that it can use, where it is banked, some banks, and
// for VLA's one of its modes.
MemorySetup Fitted(MemorySetup setup);

// Bytes of one session.
size_t SlotBytes(const MemorySetup& setup);

// Whether a bank holds anything after that many blocks; true for the state of others.
bool IsLive(const MemorySetup& setup, int bank, int64_t blocks);

// A shape without groups.
MemoryShape PlainShape(int heads, int key_dim, int value_dim);

// What a session's tokens bring, token 0 first. Unit keys and queries, values of variance 1, log
// decays in [-0.2, 0], beta in [0, 1], level weights in [0, 2]; VORT's alpha, as beta, in
// [kTestAlphaMin, 1]. An entry that erases by a key e of its own writes with a e, a in [0, 1] for
// each channel, and heads that share a written key share e.
struct MemoryInputs {
  int tokens = 0;
  std::vector<float> q;          // [token, query_heads, key_dim]
  std::vector<float> k;          // [token, key_heads, entries, key_dim]
  std::vector<float> e;          // [token, heads, entries with a key of their own, key_dim]
  std::vector<float> v;          // [token, value_heads, value_dim]
  std::vector<float> log_decay;  // as AdvanceArgs has it; per head constants where it is constant
  std::vector<float> beta;       // [token, heads]
  std::vector<float> level_weights;  // [token, heads, banks]
};

MemoryInputs RandomInputs(const MemorySetup& setup, int tokens, uint32_t seed);

// The first `prefix` tokens of one, then the tokens of the other from there on.
MemoryInputs Splice(const MemorySetup& setup, const MemoryInputs& head, int prefix,
                    const MemoryInputs& tail);

// One row of a step: tokens [begin, end) of `inputs` at their own positions.
struct MemoryRow {
  int slot = 0;
  const MemoryInputs* inputs = nullptr;
  int begin = 0;
  int end = 0;
};

class MemorySessions {
 public:
  MemorySessions(const MemorySetup& setup, int slots, int threads);

  // A state of zeros. The rest becomes NaN patterns: what is never written must never be read.
  void Reset(int slot);

  // Outputs of each row, [token, output_heads, value_dim].
  std::vector<std::vector<float>> Step(const std::vector<MemoryRow>& rows);

  // Tokens [begin, end) in chunks of that size, through one slot.
  std::vector<float> Run(int slot, const MemoryInputs& inputs, int begin, int end, int chunk);

  void CopySlot(int to, int from);
  // The stored state, [heads (, banks), key_dim, value_dim], in fp32; zeros in banks that hold
  // nothing.
  std::vector<float> StoredState(int slot) const;

  const std::vector<StateHealth>& health() const { return step_.output.health; }  // [row]

  // [row], of VLA's A.
  const std::vector<StateHealth>& preconditioner_health() const { return preconditioner_health_; }

  double step_seconds() const { return step_seconds_; }  // that the last step took in the kernels

 private:
  std::byte* Slot(int slot) const { return base_ + slot_bytes_ * static_cast<size_t>(slot); }

  // VLA: turns what the tokens bring into what its memory takes.
  void Precondition(MemoryInputs* inputs);

  const MemorySetup setup_;
  const MemoryLayout layout_;
  const size_t slot_bytes_;  // the preconditioner's part after the memory's
  const std::unique_ptr<MemoryDevice> device_;
  std::byte* const base_;
  CpuStep step_;
  std::vector<StateHealth> preconditioner_health_;
  double step_seconds_ = 0;
};

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_SUPPORT_MEMORY_SESSIONS_H_
