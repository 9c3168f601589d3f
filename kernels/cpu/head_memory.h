// One head of one row's memory: where its inputs, entries and outputs lie, and its decays. Owned by
// the task that advances it (kernels/cpu/head_advance.h).
#ifndef EVENFLOW_KERNELS_CPU_HEAD_MEMORY_H_
#define EVENFLOW_KERNELS_CPU_HEAD_MEMORY_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cpu/state_pass.h"
#include "kernels/operations.h"
#include "kernels/step.h"

namespace evenflow {

// One layer of one row.
struct RowState {
  Row row;
  std::byte* layer = nullptr;
  int64_t stored = 0;  // tokens in the stored state
};

template <class Memory>
class HeadMemory {
 public:
  static constexpr int kEntries = kEntryCount<Memory>;
  static constexpr bool kChannels = Memory::kDecay == Decay::kChannel;
  static constexpr bool kLogs = Memory::kDecay == Decay::kScalar || kChannels;

  // `logs` is the task's, to be filled with the log decays of the step's tokens.
  HeadMemory(const AdvanceArgs& args, const MemoryLayout& layout, const RowState& state, int head,
             std::vector<float>* logs)
      : args_(args),
        shape_(args.shape),
        window_(args.window),
        layout_(layout),
        row_(state.row),
        layer_(state.layer),
        head_(head),
        logs_(*logs) {
    ComputeLogs();
  }

  // Queries that read this head's state.
  int queries() const { return std::max(1, shape_.query_heads / shape_.heads); }

  // Of the state: for each entry that erases, then for each query.
  int reads_per_token() const {
    int erases = 0;
    for (const Entry& entry : Memory::kEntries) {
      erases += entry.erase == Erase::kNothing ? 0 : 1;
    }
    return erases + queries();
  }

  // The index in the step of the token at that position.
  int64_t Token(int64_t position) const { return row_.first_token + position - row_.position; }

  // w of each entry of the token at `p`, [entries, key_dim]. Keys and logs of this step are not in
  // their rings yet.
  const float* Keys(int64_t p) const {
    if (p < row_.position) {
      return RingKeys(p);
    }
    const int key_head = head_ * shape_.key_heads / shape_.heads;
    return args_.k + (Token(p) * shape_.key_heads + key_head) * keys_dim();
  }

  // e of an entry that erases, [key_dim], for a token of this step.
  const float* ErasedKey(int64_t p, int entry) const {
    if (Memory::kEntries[entry].erase == Erase::kWrittenKey) {
      return Keys(p) + ptrdiff_t{entry} * shape_.key_dim;
    }
    const int64_t own = (Token(p) * shape_.heads + head_) * OwnKeys<Memory>();
    return args_.e + (own + OwnKeys<Memory>(entry)) * shape_.key_dim;
  }

  // l of the token at `p`, [key_dim] or [1]: the log decay since its block's start.
  const float* Log(int64_t p) const {
    return p < row_.position ? RingLog(p) : logs_.data() + (p - row_.position) * log_dim();
  }

  const float* Query(int64_t p, int query) const {
    const int query_head = shape_.query_heads > shape_.heads
                               ? head_ * queries() + query
                               : head_ * shape_.query_heads / shape_.heads;
    return args_.q + (Token(p) * shape_.query_heads + query_head) * shape_.key_dim;
  }

  // v of the token at `p`, [value_dim].
  const float* Value(int64_t p) const {
    const int value_head = head_ * shape_.value_heads / shape_.heads;
    return args_.v + (Token(p) * shape_.value_heads + value_head) * shape_.value_dim;
  }

  float Beta(int64_t p) const {
    const float beta = Memory::kHasBeta ? args_.beta[Token(p) * shape_.heads + head_] : 1;
    if constexpr (ScalesByKey<Memory>) {
      const float* key = Keys(p);
      float square = 0;
      Dots(&key, 1, key, shape_.key_dim, &square);
      return Memory::Strength(beta, square);
    }
    return beta;
  }

  // o of a query, [value_dim].
  float* Output(int64_t p, int query) const {
    const int64_t out = Token(p) * shape_.output_heads() + int64_t{head_} * queries() + query;
    return args_.o + out * shape_.value_dim;
  }

  // e^{l_i - l_j}, for decays that all channels share.
  float DecayBetween(int64_t i, int64_t j) const {
    if constexpr (Memory::kDecay == Decay::kConstant) {
      return std::exp(static_cast<float>(i - j) * args_.log_decay[head_]);
    } else if constexpr (Memory::kDecay == Decay::kScalar) {
      return std::exp(*Log(i) - *Log(j));
    } else {
      return 1;
    }
  }

  // e^{l_i}.
  float DecaySinceBlock(int64_t i) const {
    if constexpr (Memory::kDecay == Decay::kConstant) {
      return DecayBetween(i, window_.Block(i) - 1);
    } else if constexpr (Memory::kDecay == Decay::kScalar) {
      return std::exp(*Log(i));
    } else {
      return 1;
    }
  }

  // w_j e^{l_i - l_j} of each entry of the token at j, [entries, key_dim]: in `out`, where it
  // differs from w_j.
  const float* DecayedKeys(int64_t i, int64_t j, float* out) const {
    const float* keys = Keys(j);
    if constexpr (Memory::kDecay == Decay::kNone) {
      return keys;
    } else if constexpr (kChannels) {
      DecayChannels({Log(i), Log(j), shape_.key_dim, kEntries}, keys, out);
    } else {
      const float decay = DecayBetween(i, j);
      for (int k = 0; k < keys_dim(); ++k) {
        out[k] = decay * keys[k];
      }
    }
    return out;
  }

  // u of each entry of the token at `p`, [entries, value_dim].
  float* Values(int64_t p) const { return Ring(layout_.values, p, kEntries * shape_.value_dim); }

  // Puts the row's keys and log decays into their rings. The ring's old entries are read until all
  // columns have been run.
  void AppendKeys() {
    const int64_t end = row_.position + row_.tokens;
    for (int64_t p = std::max(row_.position, end - window_.ring()); p < end; ++p) {
      std::memcpy(RingKeys(p), Keys(p), sizeof(float) * static_cast<size_t>(keys_dim()));
      if constexpr (kLogs) {
        std::memcpy(RingLog(p), Log(p), sizeof(float) * static_cast<size_t>(log_dim()));
      }
    }
  }

 private:
  int log_dim() const { return kChannels ? shape_.key_dim : 1; }

  int keys_dim() const { return kEntries * shape_.key_dim; }

  float* RingKeys(int64_t p) const { return Ring(layout_.keys, p, keys_dim()); }

  float* RingLog(int64_t p) const { return Ring(layout_.log_decay, p, log_dim()); }

  float* Ring(size_t offset, int64_t p, int dim) const {
    const int64_t token = int64_t{head_} * window_.ring() + p % window_.ring();
    return reinterpret_cast<float*>(layer_ + offset) + token * dim;
  }

  void ComputeLogs() {
    if constexpr (kLogs) {
      const int dim = log_dim();
      logs_.resize(static_cast<size_t>(row_.tokens) * static_cast<size_t>(dim));
      for (int64_t p = row_.position; p < row_.position + row_.tokens; ++p) {
        const float* step = args_.log_decay + (Token(p) * shape_.heads + head_) * dim;
        const float* before = p == window_.Block(p) ? nullptr : Log(p - 1);
        float* log = logs_.data() + (p - row_.position) * dim;
        for (int k = 0; k < dim; ++k) {
          // Not std::max: NaN must stay.
          const float clamped = step[k] < kMinLogDecay ? kMinLogDecay : step[k];
          log[k] = (before == nullptr ? 0 : before[k]) + clamped;
        }
      }
    }
  }

  const AdvanceArgs& args_;
  const MemoryShape& shape_;
  const Window& window_;
  const MemoryLayout& layout_;
  const Row row_;
  std::byte* const layer_;
  const int head_;
  std::vector<float>& logs_;  // [token (, key_dim)], cumulative since the token's block
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_HEAD_MEMORY_H_
