// The driver of memories with several states a head, their banks. A token reads each bank that
// holds anything, with a weight of its own, and the entries since its base, with a weight for each
// pair:
//     o_i = sum_banks r_i S_0^T x + sum_{base <= j <= i} W_ij s_j v_j,    x = q_i and s_j = k_j .
//     q_i
// or, where the states erase (delta rule), with the query led back through the transitions of the
// entries, x <- x - beta_j k_j (k_j . x) for j = i .. base, and s_j = beta_j (k_j . x) on the way.
//
// Blocks are taken in by a copy of the banks for a few columns: it is what is read while the stored
// banks lag behind, and it is stored once R more tokens have been read. So a token reads what its
// position says, whatever is stored.
#include "kernels/cpu/banked_advance.h"

#include <cstring>

#include "kernels/cpu/banked_entries.h"
#include "kernels/cpu/pair_weights.h"
#include "kernels/cpu/state_pass.h"

namespace evenflow {
namespace {

// Buffers of a thread, kept from call to call.
struct Scratch {
  std::vector<float> logs;       // [token], cumulative since the token's block
  std::vector<float> x;          // [read, key_dim], a read being a query of a token
  std::vector<float> pairs;      // [read, commit + lag]: W_ij s_j
  std::vector<float> weighted;   // [reads of a segment, key_dim]
  std::vector<float> products;   // [reads of a segment, columns]
  std::vector<std::byte> banks;  // [bank, key_dim, columns]
  std::vector<float> keys;       // [commit, key_dim], decayed
  std::vector<float> decay;      // [key_dim]
  std::vector<float> gram;       // [commit, commit]: -beta_j e^{l_j - l_i} (k_i . k_j), i < j
  std::vector<float> erased;     // [commit, columns]: u
  std::vector<float> weights;    // [commit + lag]
  std::vector<float> health;     // [3, columns]
  std::vector<float> total;      // likewise, over the banks
  std::vector<const float*> read_list;
  std::vector<const float*> key_list;
  std::vector<const float*> value_list;
};

template <class Memory>
class BankedHead {
 public:
  BankedHead(const AdvanceArgs& args, const MemoryLayout& layout, const RowState& state, int head)
      : args_(args),
        shape_(args.shape),
        window_(args.window),
        layout_(layout),
        row_(state.row),
        state_(state),
        index_(head),
        head_(args, layout, state, head, &scratch_.logs),
        banks_(args, head_),
        pair_weights_(head_, banks_) {}

  void Run(int begin, int end, UnitHealth* health) {
    PrepareReads();
    // Columns of a copy, or of a prompt's products, stay in the cache.
    const bool reads_stored = row_.tokens == 1 && state_.stored == window_.Base(row_.position);
    const int width = reads_stored ? end - begin : kUnitColumns;
    for (int column = begin; column < end; column += width) {
      RunColumns(column, std::min(end - column, width), health);
    }
  }

  void AppendKeys() { head_.Append(); }

 private:
  static_assert(kEntryCount<Memory> == 1 && OwnKeys<Memory>() == 0);
  static constexpr bool kErases = Memory::kEntries[0].erase == Erase::kWrittenKey;

  // Banks of a head, at the first of some columns.
  struct Tile {
    std::byte* data;
    int64_t bank_elements;
    int stride;  // elements between keys
    int begin;   // the first column's index
    int columns;
  };

  std::byte* BankOf(const Tile& tile, int bank) const {
    return tile.data + static_cast<size_t>(bank * tile.bank_elements) * ByteSize(args_.state_dtype);
  }

  int span() const { return window_.commit + window_.lag; }

  int64_t Read(int64_t p, int query) const { return (p - row_.position) * head_.queries() + query; }

  float* X(int64_t read) { return scratch_.x.data() + read * shape_.key_dim; }

  float* Pairs(int64_t read) { return scratch_.pairs.data() + read * span(); }

  // x and W_ij s_j of every read: no columns are needed for them.
  void PrepareReads() {
    const auto reads = static_cast<size_t>(Read(row_.position + row_.tokens, 0));
    scratch_.x.resize(reads * static_cast<size_t>(shape_.key_dim));
    scratch_.pairs.resize(reads * static_cast<size_t>(span()));
    scratch_.key_list.resize(static_cast<size_t>(span()));
    for (int64_t p = row_.position; p < row_.position + row_.tokens; ++p) {
      const int64_t base = window_.Base(p);
      const auto entries = static_cast<int>(p - base + 1);
      for (int e = 0; e < entries; ++e) {
        scratch_.key_list[static_cast<size_t>(e)] = head_.Keys(base + e);
      }
      for (int query = 0; query < head_.queries(); ++query) {
        float* x = X(Read(p, query));
        float* pairs = Pairs(Read(p, query));
        std::copy_n(head_.Query(p, query), shape_.key_dim, x);
        if constexpr (kErases) {
          LeadBack(base, entries, x, pairs);
        } else {
          Dots(scratch_.key_list.data(), entries, x, shape_.key_dim, pairs);
        }
        pair_weights_.Weigh(p, base, entries, pairs);
      }
    }
  }

  void LeadBack(int64_t base, int entries, float* x, float* scores) {
    for (int e = entries - 1; e >= 0; --e) {
      const float* const* key = &scratch_.key_list[static_cast<size_t>(e)];
      Dots(key, 1, x, shape_.key_dim, scores + e);
      scores[e] *= head_.Strength(base + e);
      const float erase = -scores[e];
      AddRows({1, &erase, key, 1}, x, shape_.key_dim);
    }
  }

  void RunColumns(int begin, int columns, UnitHealth* health) {
    const int64_t first = int64_t{index_} * banks_.count() * shape_.key_dim * shape_.value_dim;
    const Tile stored_tile{state_.layer + layout_.committed +
                               static_cast<size_t>(first + begin) * ByteSize(args_.state_dtype),
                           int64_t{shape_.key_dim} * shape_.value_dim, shape_.value_dim, begin,
                           columns};
    const int64_t end = row_.position + row_.tokens;
    int64_t stored = state_.stored;
    for (int64_t p = row_.position; p < end;) {
      const int64_t segment_end = std::min(end, window_.Block(p) + window_.commit);
      const int64_t base = window_.Base(p);
      Tile tile = stored_tile;
      if (stored < base) {
        const int64_t stored_after = std::max(stored, window_.Stored(segment_end - 1));
        tile = TakeInPending(stored_tile, {stored, stored_after, base}, health);
        stored = stored_after;
      }
      ReadBanks(tile, base, p, static_cast<int>(segment_end - p));
      for (; p < segment_end; ++p) {
        WriteOutputs(p, base, tile);
      }
    }
  }

  struct Pending {
    int64_t stored;        // tokens in the stored banks before
    int64_t stored_after;  // and after
    int64_t base;          // tokens in the copy that is returned
  };

  Tile TakeInPending(const Tile& stored, const Pending& pending, UnitHealth* health) {
    const int64_t elements = int64_t{shape_.key_dim} * stored.columns;
    scratch_.banks.resize(static_cast<size_t>(elements * banks_.count()) *
                          ByteSize(args_.state_dtype));
    const Tile copy{scratch_.banks.data(), elements, stored.columns, stored.begin, stored.columns};
    CopyBanks(stored, copy, pending.stored / window_.commit);
    for (int64_t first = pending.stored; first < pending.base; first += window_.commit) {
      scratch_.total.assign(3 * static_cast<size_t>(stored.columns), 0.0f);
      TakeIn(copy, first);
      if (first + window_.commit == pending.stored_after) {
        CopyBanks(copy, stored, pending.stored_after / window_.commit);
        SumColumns(scratch_.total.data(), stored.begin, stored.columns, health);
      }
    }
    return copy;
  }

  // The banks that hold anything after that many blocks.
  void CopyBanks(const Tile& from, const Tile& to, int64_t blocks) const {
    const size_t size = ByteSize(args_.state_dtype);
    for (int bank = 0; bank < banks_.count(); ++bank) {
      for (int key = 0; banks_.Live(bank, blocks) && key < shape_.key_dim; ++key) {
        std::memcpy(BankOf(to, bank) + static_cast<size_t>(key * to.stride) * size,
                    BankOf(from, bank) + static_cast<size_t>(key * from.stride) * size,
                    static_cast<size_t>(from.columns) * size);
      }
    }
  }

  // The block that begins with token `first`, into a copy's banks.
  void TakeIn(const Tile& tile, int64_t first) {
    const int64_t blocks = first / window_.commit;
    const int64_t last = first + window_.commit - 1;
    if constexpr (kErases) {
      PrepareGram(first);
    }
    scratch_.health.resize(scratch_.total.size());
    for (int bank = 0; bank < banks_.count(); ++bank) {
      if (!banks_.Live(bank, blocks + 1)) {
        continue;
      }
      const bool takes = banks_.Takes(bank, blocks);
      if (takes) {
        Gather(tile, bank, blocks);
      }
      StatePass pass = PassOf(tile, bank);
      scratch_.decay.assign(static_cast<size_t>(shape_.key_dim), banks_.Decay(bank, last));
      pass.decay = scratch_.decay.data();
      pass.folds = 1;
      pass.stored = 1;
      pass.health = scratch_.health.data();
      if (takes || kErases) {
        ListEntries(tile, bank, first, takes, &pass);
      }
      PassState(pass);
      const auto columns = static_cast<size_t>(tile.columns);
      for (size_t c = 0; c < columns; ++c) {
        float* total = scratch_.total.data() + c;
        const float* health = pass.health + c;
        total[0] += health[0];
        total[columns] = std::max(total[columns], health[columns]);
        total[2 * columns] += health[2 * columns];
      }
    }
  }

  // What a bank holds before its entries come: its own, and what is carried into it.
  void Gather(const Tile& tile, int bank, int64_t blocks) {
    if (!banks_.Live(bank, blocks)) {
      std::memset(BankOf(tile, bank), 0,
                  static_cast<size_t>(tile.bank_elements) * ByteSize(args_.state_dtype));
    }
    for (int from = 0; from < banks_.Carried(bank); ++from) {
      AddStates(args_.state_dtype, BankOf(tile, from), BankOf(tile, bank), tile.bank_elements);
    }
  }

  StatePass PassOf(const Tile& tile, int bank) const {
    StatePass pass;
    pass.state = BankOf(tile, bank);
    pass.dtype = args_.state_dtype;
    pass.key_dim = shape_.key_dim;
    pass.stride = tile.stride;
    pass.columns = tile.columns;
    return pass;
  }

  // The block's entries as the bank takes them: c_j k_j, and v_j or what erasing makes of it.
  void ListEntries(const Tile& tile, int bank, int64_t first, bool takes, StatePass* pass) {
    const int commit = window_.commit;
    const int dim = shape_.key_dim;
    if constexpr (kErases) {
      EraseEntries(tile, bank, first, takes);
    }
    scratch_.keys.resize(static_cast<size_t>(commit) * static_cast<size_t>(dim));
    scratch_.key_list.resize(static_cast<size_t>(span()));
    scratch_.value_list.resize(static_cast<size_t>(span()));
    for (int e = 0; e < commit; ++e) {
      const float weight = banks_.Entry(bank, first + commit - 1, first + e);
      const float* from = head_.Keys(first + e);
      float* key = scratch_.keys.data() + ptrdiff_t{e} * dim;
      for (int k = 0; k < dim; ++k) {
        key[k] = weight * from[k];
      }
      const auto entry = static_cast<size_t>(e);
      scratch_.key_list[entry] = key;
      scratch_.value_list[entry] = kErases ? scratch_.erased.data() + ptrdiff_t{e} * tile.columns
                                           : head_.Value(first + e) + tile.begin;
    }
    pass->entries = commit;
    pass->fold_keys = scratch_.key_list.data();
    pass->fold_values = scratch_.value_list.data();
  }

  void PrepareGram(int64_t first) {
    const int commit = window_.commit;
    scratch_.gram.resize(static_cast<size_t>(commit) * static_cast<size_t>(commit));
    scratch_.key_list.resize(static_cast<size_t>(span()));
    for (int j = 0; j < commit; ++j) {
      const float* key = head_.Keys(first + j);
      float* row = scratch_.gram.data() + ptrdiff_t{j} * commit;
      Dots(scratch_.key_list.data(), j, key, shape_.key_dim, row);
      for (int i = 0; i < j; ++i) {
        row[i] *= -head_.Strength(first + j) * head_.DecayBetween(first + j, first + i);
      }
      scratch_.key_list[static_cast<size_t>(j)] = key;
    }
  }

  // u_j = beta_j (v_j - e^{l_j} S_0^T k_j - sum_{i<j} e^{l_j - l_i} (k_i . k_j) u_i), without v_j
  // in the banks that do not take the block in.
  void EraseEntries(const Tile& tile, int bank, int64_t first, bool takes) {
    const int commit = window_.commit;
    scratch_.erased.resize(static_cast<size_t>(commit) * static_cast<size_t>(tile.columns));
    scratch_.key_list.resize(static_cast<size_t>(span()));
    scratch_.value_list.resize(static_cast<size_t>(span()));
    scratch_.weights.resize(static_cast<size_t>(span()));
    for (int e = 0; e < commit; ++e) {
      scratch_.key_list[static_cast<size_t>(e)] = head_.Keys(first + e);
    }
    StatePass pass = PassOf(tile, bank);
    pass.reads = commit;
    pass.x = scratch_.key_list.data();
    pass.products = scratch_.erased.data();
    PassState(pass);
    for (int e = 0; e < commit; ++e) {
      float* u = scratch_.erased.data() + ptrdiff_t{e} * tile.columns;
      std::copy_n(scratch_.gram.data() + ptrdiff_t{e} * commit, e, scratch_.weights.data());
      scratch_.weights[static_cast<size_t>(e)] = head_.Strength(first + e);
      scratch_.value_list[static_cast<size_t>(e)] = head_.Value(first + e) + tile.begin;
      const float scale = -head_.Strength(first + e) * head_.DecaySinceBlock(first + e);
      AddRows({scale, scratch_.weights.data(), scratch_.value_list.data(), takes ? e + 1 : e}, u,
              tile.columns);
      scratch_.value_list[static_cast<size_t>(e)] = u;
    }
  }

  // products = sum_banks r_i S_0^T x for all reads of `tokens` tokens from `p` on.
  void ReadBanks(const Tile& tile, int64_t base, int64_t p, int tokens) {
    const int reads = tokens * head_.queries();
    const int dim = shape_.key_dim;
    scratch_.products.assign(static_cast<size_t>(reads) * static_cast<size_t>(tile.columns), 0.0f);
    scratch_.weighted.resize(static_cast<size_t>(reads) * static_cast<size_t>(dim));
    scratch_.read_list.resize(static_cast<size_t>(reads));
    for (int bank = 0; bank < banks_.count(); ++bank) {
      if (!banks_.Live(bank, base / window_.commit)) {
        continue;
      }
      for (int r = 0; r < reads; ++r) {
        const int64_t at = p + r / head_.queries();
        const float weight = banks_.Read(at, base, bank);
        const float* x = X(Read(at, r % head_.queries()));
        float* weighted = scratch_.weighted.data() + ptrdiff_t{r} * dim;
        for (int k = 0; k < dim; ++k) {
          weighted[k] = weight * x[k];
        }
        scratch_.read_list[static_cast<size_t>(r)] = weighted;
      }
      StatePass pass = PassOf(tile, bank);
      pass.reads = reads;
      pass.x = scratch_.read_list.data();
      pass.products = scratch_.products.data();
      pass.add = true;
      PassState(pass);
    }
    first_product_ = p;
  }

  void WriteOutputs(int64_t p, int64_t base, const Tile& tile) {
    const auto entries = static_cast<int>(p - base + 1);
    scratch_.value_list.resize(static_cast<size_t>(span()));
    for (int e = 0; e < entries; ++e) {
      scratch_.value_list[static_cast<size_t>(e)] = head_.Value(base + e) + tile.begin;
    }
    for (int query = 0; query < head_.queries(); ++query) {
      const int64_t read = (p - first_product_) * head_.queries() + query;
      float* product = scratch_.products.data() + read * tile.columns;
      AddRows({1, Pairs(Read(p, query)), scratch_.value_list.data(), entries}, product,
              tile.columns);
      std::copy_n(product, tile.columns, head_.Output(p, query) + tile.begin);
    }
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
  BankedEntries<Memory> head_;
  BankWeights<BankedEntries<Memory>, typename Memory::Banks> banks_;
  PairWeights<BankedEntries<Memory>, typename Memory::Banks> pair_weights_;
  int64_t first_product_ = 0;  // the token of the first of the products
};

}  // namespace

void AdvanceBanked(const AdvanceArgs& args, const std::vector<RowState>& rows, WorkerPool& pool,
                   std::vector<UnitHealth>* health) {
  VisitMemory(args.memory, [&]<class Memory>() {
    if constexpr (Banked<Memory>) {
      AdvanceRows<BankedHead<Memory>>(args, rows, pool, health);
    }
  });
}

}  // namespace evenflow
