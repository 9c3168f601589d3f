// The memory driver: for each row and head, token by token,
//     u = v or beta (v - S^T k);   append (k, u, l);   o = S^T q
// with S^T x as kernels/memory.h has it. Tokens of a row that share a block read the stored state
// together, in one pass: what they read there does not depend on one another.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "kernels/cpu/advance_rows.h"
#include "kernels/cpu/banked_advance.h"
#include "kernels/cpu/head_memory.h"
#include "kernels/cpu/state_pass.h"
#include "kernels/cpu/step.h"

namespace evenflow {
namespace {

constexpr int kPromptColumns = 128;  // a prompt's products for so many stay in the first cache

// Buffers of a thread, kept from call to call.
struct Scratch {
  std::vector<float> logs;      // [token (, key_dim)], cumulative since the token's block
  std::vector<float> products;  // [reads of a segment, columns]
  std::vector<float> reads;     // [reads of a segment, key_dim], decayed by channels
  std::vector<float> keys;      // [entries, key_dim], decayed
  std::vector<float> decay;     // [folds, key_dim]
  std::vector<float> weights;   // [entries]
  std::vector<const float*> x;
  std::vector<const float*> window_keys;
  std::vector<const float*> window_values;
  std::vector<const float*> fold_keys;
  std::vector<const float*> fold_values;
  std::vector<float> health;  // [3, columns]
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
  static constexpr bool kErases = Memory::kErase == Erase::kWrittenKey;
  static constexpr bool kChannels = Memory::kDecay == Decay::kChannel;

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

  // products = S^T x for the erase key and the queries of each token, S as of their block.
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
    pass.x = pass_x_;
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

  // Lists the segment's reads in scratch_.x, and in pass_x_ as the state sees them: decayed, where
  // channels decay by themselves.
  void CollectReads(int64_t p, int tokens) {
    auto& x = scratch_.x;
    x.clear();
    for (int64_t at = p; at < p + tokens; ++at) {
      if (kErases) {
        x.push_back(head_.Key(at));
      }
      for (int query = 0; query < head_.queries(); ++query) {
        x.push_back(head_.Query(at, query));
      }
    }
    pass_x_ = x.data();
    if constexpr (kChannels) {
      const auto reads = x.size();
      const auto dim = static_cast<size_t>(shape_.key_dim);
      scratch_.reads.resize(reads * dim);
      x.resize(2 * reads);
      for (size_t r = 0; r < reads; ++r) {
        const int64_t at = p + static_cast<int64_t>(r) / head_.reads_per_token();
        float* decayed = scratch_.reads.data() + r * dim;
        DecayChannels(x[r], head_.Log(at), nullptr, shape_.key_dim, decayed);
        x[reads + r] = decayed;
      }
      pass_x_ = x.data() + reads;
    }
  }

  // The blocks of tokens [begin, end), to be folded into the state.
  void PrepareFolds(int64_t begin, int64_t end, int column, StatePass* pass) {
    const auto entries = static_cast<size_t>(end - begin);
    const auto dim = static_cast<size_t>(shape_.key_dim);
    const auto commit = static_cast<size_t>(window_.commit);
    scratch_.keys.resize(Memory::kDecay == Decay::kNone ? 0 : entries * dim);
    scratch_.decay.resize(entries / commit * dim);
    scratch_.fold_keys.resize(entries);
    scratch_.fold_values.resize(entries);
    for (size_t e = 0; e < entries; ++e) {
      const int64_t j = begin + static_cast<int64_t>(e);
      const int64_t last = window_.Block(j) + window_.commit - 1;
      scratch_.fold_keys[e] = DecayKey(last, j, e);
      scratch_.fold_values[e] = head_.Value(j) + column;
      if (j == last) {
        float* decay = scratch_.decay.data() + e / commit * dim;
        std::fill_n(decay, dim, head_.DecaySinceBlock(last));
        if constexpr (kChannels) {
          DecayChannels(decay, head_.Log(last), nullptr, shape_.key_dim, decay);
        }
      }
    }
    pass->folds = static_cast<int>(entries / commit);
    pass->entries = window_.commit;
    pass->decay = scratch_.decay.data();
    pass->fold_keys = scratch_.fold_keys.data();
    pass->fold_values = scratch_.fold_values.data();
  }

  // w_j e^{l_i - l_j}, kept as the `entry`-th of scratch_.keys where it differs from w_j.
  const float* DecayKey(int64_t i, int64_t j, size_t entry) {
    if constexpr (Memory::kDecay == Decay::kNone) {
      return head_.Key(j);
    }
    const int dim = shape_.key_dim;
    float* decayed = scratch_.keys.data() + entry * static_cast<size_t>(dim);
    if constexpr (kChannels) {
      DecayChannels(head_.Key(j), head_.Log(i), head_.Log(j), dim, decayed);
    } else {
      const float decay = head_.DecayBetween(i, j);
      const float* key = head_.Key(j);
      for (int k = 0; k < dim; ++k) {
        decayed[k] = decay * key[k];
      }
    }
    return decayed;
  }

  // Token p: turns its products into what it reads, appends its value, writes its outputs.
  void ReadAndAppend(int64_t p, int begin, int columns, const float* const* x, float* products) {
    const auto entries = static_cast<size_t>(p - window_.Block(p) + 1);  // its own the last
    scratch_.window_keys.resize(entries);
    scratch_.window_values.resize(entries);
    if constexpr (kChannels) {
      scratch_.keys.resize(entries * static_cast<size_t>(shape_.key_dim));
    }
    for (size_t e = 0; e < entries; ++e) {
      const int64_t j = window_.Block(p) + static_cast<int64_t>(e);
      scratch_.window_keys[e] = kChannels ? DecayKey(p, j, e) : head_.Key(j);
      scratch_.window_values[e] = head_.Value(j) + begin;
    }
    float* u = head_.Value(p) + begin;
    const int value_head = index_ * shape_.value_heads / shape_.heads;
    const float* v =
        args_.v + (head_.Token(p) * shape_.value_heads + value_head) * shape_.value_dim + begin;
    if constexpr (kErases) {
      ReadWindow(p, static_cast<int>(entries) - 1, *x++, products, columns);
      const float beta = Memory::kHasBeta ? args_.beta[head_.Token(p) * shape_.heads + index_] : 1;
      for (int c = 0; c < columns; ++c) {
        u[c] = beta * (v[c] - products[c]);
      }
      products += columns;
    } else {
      std::copy_n(v, columns, u);
    }
    for (int query = 0; query < head_.queries(); ++query, products += columns) {
      ReadWindow(p, static_cast<int>(entries), x[query], products, columns);
      const int64_t out =
          head_.Token(p) * shape_.output_heads() + int64_t{index_} * head_.queries() + query;
      std::copy_n(products, columns, args_.o + out * shape_.value_dim + begin);
    }
  }

  // product <- e^{l_p} product + sum_j u_j ((w_j e^{l_p - l_j}) . x), over the first entries of the
  // token's block.
  void ReadWindow(int64_t p, int entries, const float* x, float* product, int columns) {
    scratch_.weights.resize(static_cast<size_t>(window_.commit));
    float* weights = scratch_.weights.data();
    Dots(scratch_.window_keys.data(), entries, x, shape_.key_dim, weights);
    for (int e = 0; e < entries; ++e) {
      weights[e] *= head_.DecayBetween(p, window_.Block(p) + e);
    }
    const float scale = head_.DecaySinceBlock(p);
    AddRows({scale, weights, scratch_.window_values.data(), entries}, product, columns);
  }

  static Scratch& ThreadScratch() {
    static thread_local Scratch scratch;
    return scratch;
  }

  const AdvanceArgs& args_;
  const MemoryShape& shape_;
  const Window& window_;
  const MemoryLayout& layout_;
  const Row row_;
  const RowState& state_;
  const int index_;
  Scratch& scratch_ = ThreadScratch();
  HeadMemory<Memory> head_;
  const float* const* pass_x_ = nullptr;  // the segment's reads as the state sees them
};

StateHealth SumUnits(const UnitHealth* units, int count) {
  StateHealth health;
  health.committed = true;
  double square = 0;
  for (int i = 0; i < count; ++i) {
    square += units[i].square;
    health.max_abs = std::max(health.max_abs, units[i].max_abs);
    health.non_finite += units[i].non_finite;
  }
  health.norm = static_cast<float>(std::sqrt(square));
  return health;
}

}  // namespace

void CpuAdvance(const AdvanceArgs& args, CpuStep& step, WorkerPool& pool) {
  if (step.rows.empty()) {
    return;
  }
  const MemoryLayout layout = LayoutOf(args.memory, args.shape, args.window, args.state_dtype);
  std::vector<RowState> rows;
  for (const Row& row : step.rows) {
    std::byte* layer =
        args.slots.base + static_cast<size_t>(row.slot) * args.slots.slot_bytes + args.layer_offset;
    const int64_t stored =
        row.position == 0 ? 0 : *reinterpret_cast<int64_t*>(layer + layout.committed_tokens);
    if (stored < 0 || stored > args.window.Base(row.position)) {
      std::abort();  // a slot that holds no session, or one set back by more than the window allows
    }
    rows.push_back({row, layer, stored});
  }
  std::vector<UnitHealth> units;
  VisitMemory(args.memory, [&]<class Memory>() {
    if constexpr (Banked<Memory>) {
      AdvanceBanked(args, rows, pool, &units);
    } else {
      AdvanceRows<HeadAdvance<Memory>>(args, rows, pool, &units);
    }
  });
  const int head_units = args.shape.heads * Units(args.shape.value_dim);
  for (size_t r = 0; r < rows.size(); ++r) {
    const Row& row = rows[r].row;
    const int64_t stored =
        std::max(rows[r].stored, args.window.Stored(row.position + row.tokens - 1));
    *reinterpret_cast<int64_t*>(rows[r].layer + layout.committed_tokens) = stored;
    StateHealth& health = step.output.health[r * static_cast<size_t>(step.output.memory_layers) +
                                             static_cast<size_t>(args.memory_layer)];
    health = {};
    if (stored > rows[r].stored) {
      health = SumUnits(units.data() + r * static_cast<size_t>(head_units), head_units);
    }
  }
}

}  // namespace evenflow
