// The memory driver for one row and head, token by token:
//     for each entry: u = [v] - [S^T e], append (w, u, l);   o = S^T q
// with S^T x as kernels/memory.h has it. Tokens of a row that share a block read the stored state
// together, in one pass: what they read there does not depend on one another. Owned by the task
// that advances the head.
#ifndef EVENFLOW_KERNELS_CPU_HEAD_ADVANCE_H_
#define EVENFLOW_KERNELS_CPU_HEAD_ADVANCE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cpu/advance_rows.h"
#include "kernels/cpu/head_memory.h"
#include "kernels/cpu/state_pass.h"

namespace evenflow {

// Buffers of a thread, kept from call to call.
struct AdvanceScratch {
  std::vector<float> logs;                // [token (, key_dim)], cumulative since the token's block
  std::vector<float> products;            // [reads of a segment, columns]
  std::vector<float> reads;               // [reads of a segment, key_dim], decayed by channels
  std::vector<float> keys;                // [entries, key_dim], decayed
  std::vector<float> decay;               // [folds, key_dim]
  std::vector<float> weights;             // [entries]
  std::vector<const float*> x;            // [reads of a segment]
  std::vector<const float*> pass_x;       // likewise, as the state sees them: decayed by channels
  std::vector<const float*> window_keys;  // [entries], of a block or of all to be folded
  std::vector<const float*> window_values;  // [entries]
  std::vector<float> health;                // [3, columns]
};

template <class Memory>
class HeadAdvance {
 public:
  HeadAdvance(const AdvanceArgs& args, const MemoryLayout& layout, const RowState& state, int head)
      : args_(args),
        shape_(args.shape),
        window_(args.window),
        layout_(layout),
        row_(state.row),
        state_(state),
        index_(head),
        head_(args, layout, state, head, &scratch_.logs) {}

  // Once all columns of the head have been run.
  void AppendKeys() { head_.AppendKeys(); }

  // All tokens of the row, for the columns [begin, end). `health` [units of the head].
  void Run(int begin, int end, UnitHealth* health) {
    const int width = row_.tokens > 1 ? kPromptColumns : end - begin;
    for (int column = begin; column < end; column += width) {
      RunColumns(column, std::min(end - column, width), health);
    }
  }

 private:
  static constexpr int kEntries = kEntryCount<Memory>;
  static constexpr bool kChannels = Memory::kDecay == Decay::kChannel;
  static constexpr int kPromptColumns = 128;  // a prompt's products for so many fit the first cache

  void RunColumns(int begin, int columns, UnitHealth* health) {
    const int64_t end = row_.position + row_.tokens;
    int64_t stored = state_.stored;
    for (int64_t p = row_.position; p < end;) {
      const int64_t segment_end = std::min(end, window_.Block(p) + window_.commit);
      const auto tokens = static_cast<int>(segment_end - p);
      const int64_t stored_after = std::max(stored, window_.Stored(segment_end - 1));
      PassSegment(p, tokens, {begin, columns, stored, stored_after}, health);
      stored = stored_after;
      for (int i = 0; i < tokens; ++i) {
        const ptrdiff_t read = ptrdiff_t{i} * head_.reads_per_token();
        ReadAndAppend(p + i, begin, columns, scratch_.x.data() + read,
                      scratch_.products.data() + read * columns);
      }
      p = segment_end;
    }
  }

  struct Columns {
    int begin;
    int count;
    int64_t stored;        // tokens in the stored state before the pass
    int64_t stored_after;  // and after
  };

  // products = S^T x for the erase keys and the queries of each token, S as of their block.
  void PassSegment(int64_t p, int tokens, const Columns& columns, UnitHealth* health) {
    CollectReads(p, tokens);
    const int reads = tokens * head_.reads_per_token();
    scratch_.products.resize(static_cast<size_t>(reads) * static_cast<size_t>(columns.count));
    StatePass pass;
    const int64_t first = int64_t{index_} * shape_.key_dim * shape_.value_dim + columns.begin;
    pass.state =
        state_.layer + layout_.committed + static_cast<size_t>(first) * ByteSize(args_.state_dtype);
    pass.dtype = args_.state_dtype;
    pass.key_dim = shape_.key_dim;
    pass.stride = shape_.value_dim;
    pass.columns = columns.count;
    pass.reads = reads;
    pass.x = scratch_.pass_x.data();
    pass.products = scratch_.products.data();
    if (columns.stored < window_.Block(p)) {
      PrepareFolds(columns.stored, window_.Block(p), columns.begin, &pass);
      pass.stored = static_cast<int>((columns.stored_after - columns.stored) / window_.commit);
      scratch_.health.resize(3 * static_cast<size_t>(columns.count));
      pass.health = scratch_.health.data();
    }
    PassState(pass);
    if (pass.stored > 0) {
      SumColumns(scratch_.health.data(), columns.begin, columns.count, health);
    }
  }

  // Lists the reads of `tokens` tokens.
  void CollectReads(int64_t p, int tokens) {
    scratch_.x.clear();
    scratch_.pass_x.clear();
    scratch_.reads.resize(static_cast<size_t>(tokens * head_.reads_per_token()) *
                          static_cast<size_t>(shape_.key_dim));
    for (int64_t at = p; at < p + tokens; ++at) {
      for (int n = 0; n < kEntries; ++n) {
        if (Memory::kEntries[n].erase != Erase::kNothing) {
          AddRead(at, head_.ErasedKey(at, n));
        }
      }
      for (int query = 0; query < head_.queries(); ++query) {
        AddRead(at, head_.Query(at, query));
      }
    }
  }

  void AddRead(int64_t p, const float* x) {
    const auto read = static_cast<ptrdiff_t>(scratch_.x.size());
    scratch_.x.push_back(x);
    if constexpr (kChannels) {
      float* decayed = scratch_.reads.data() + read * shape_.key_dim;
      DecayChannels({head_.Log(p), nullptr, shape_.key_dim}, x, decayed);
      x = decayed;
    }
    scratch_.pass_x.push_back(x);
  }

  // The blocks of tokens [begin, end), to be folded into the state.
  void PrepareFolds(int64_t begin, int64_t end, int column, StatePass* pass) {
    const auto folds = static_cast<size_t>((end - begin) / window_.commit);
    const auto dim = static_cast<size_t>(shape_.key_dim);
    scratch_.decay.resize(folds * dim);
    scratch_.keys.resize(static_cast<size_t>(end - begin) * kEntries * dim);
    scratch_.window_keys.clear();
    scratch_.window_values.clear();
    for (int64_t j = begin; j < end; ++j) {
      const int64_t last = window_.Block(j) + window_.commit - 1;
      AddEntries(head_.DecayedKeys(last, j, DecayedKeysOf(j - begin)), j, column);
      if (j == last) {
        float* decay = scratch_.decay.data() + (j - begin) / window_.commit * shape_.key_dim;
        std::fill_n(decay, dim, head_.DecaySinceBlock(last));
        if constexpr (kChannels) {
          DecayChannels({head_.Log(last), nullptr, shape_.key_dim}, decay, decay);
        }
      }
    }
    pass->folds = static_cast<int>(folds);
    pass->entries = window_.commit * kEntries;
    pass->decay = scratch_.decay.data();
    pass->fold_keys = scratch_.window_keys.data();
    pass->fold_values = scratch_.window_values.data();
  }

  float* DecayedKeysOf(int64_t token) {
    return scratch_.keys.data() + token * kEntries * shape_.key_dim;
  }

  // Lists the entries of the token at j, whose keys are at `keys`.
  void AddEntries(const float* keys, int64_t j, int column) {
    for (ptrdiff_t n = 0; n < kEntries; ++n) {
      scratch_.window_keys.push_back(keys + n * shape_.key_dim);
      scratch_.window_values.push_back(head_.Values(j) + n * shape_.value_dim + column);
    }
  }

  // Token p: turns its products into what it reads, appends its values, writes its outputs.
  void ReadAndAppend(int64_t p, int begin, int columns, const float* const* x, float* products) {
    const int64_t block = window_.Block(p);
    const auto tokens = static_cast<int>(p - block + 1);
    scratch_.window_keys.clear();
    scratch_.window_values.clear();
    if constexpr (kChannels) {
      scratch_.keys.resize(static_cast<size_t>(tokens) * kEntries *
                           static_cast<size_t>(shape_.key_dim));
    }
    for (int64_t j = block; j <= p; ++j) {
      const float* keys =
          kChannels ? head_.DecayedKeys(p, j, DecayedKeysOf(j - block)) : head_.Keys(j);
      AddEntries(keys, j, begin);
    }
    const float* v = head_.Value(p) + begin;
    float* u = head_.Values(p) + begin;
    for (int n = 0; n < kEntries; ++n, u += shape_.value_dim) {
      const Entry& entry = Memory::kEntries[n];
      const float beta = entry.writes_value ? head_.Beta(p) : 1;
      const bool erases = entry.erase != Erase::kNothing;
      if (erases) {
        ReadWindow(p, (tokens - 1) * kEntries + n, *x++, products, columns);
      }
      for (int c = 0; c < columns; ++c) {
        u[c] = beta * ((entry.writes_value ? v[c] : 0) - (erases ? products[c] : 0));
      }
      products += erases ? columns : 0;
    }
    for (int query = 0; query < head_.queries(); ++query, products += columns) {
      ReadWindow(p, tokens * kEntries, x[query], products, columns);
      std::copy_n(products, columns, head_.Output(p, query) + begin);
    }
  }

  // product <- e^{l_p} product + sum_j u_j ((w_j e^{l_p - l_j}) . x), over the first entries of the
  // token's block.
  void ReadWindow(int64_t p, int entries, const float* x, float* product, int columns) {
    scratch_.weights.resize(static_cast<size_t>(entries));
    float* weights = scratch_.weights.data();
    Dots(scratch_.window_keys.data(), entries, x, shape_.key_dim, weights);
    for (int e = 0; e < entries; ++e) {
      weights[e] *= head_.DecayBetween(p, window_.Block(p) + e / kEntries);
    }
    const float scale = head_.DecaySinceBlock(p);
    AddRows({scale, weights, scratch_.window_values.data(), entries}, product, columns);
  }

  static AdvanceScratch& ThreadScratch() {
    static thread_local AdvanceScratch scratch;
    return scratch;
  }

  const AdvanceArgs& args_;
  const MemoryShape& shape_;
  const Window& window_;
  const MemoryLayout& layout_;
  const Row row_;
  const RowState& state_;
  const int index_;
  AdvanceScratch& scratch_ = ThreadScratch();
  HeadMemory<Memory> head_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_HEAD_ADVANCE_H_
