// A pass over a head's banks, for a quad of columns: reads them for the queries of a segment and
// takes the block that waits in on the way. For .cu files; quad.cuh has who adds up what.
#ifndef EVENFLOW_KERNELS_CUDA_BANKED_PASS_CUH_
#define EVENFLOW_KERNELS_CUDA_BANKED_PASS_CUH_

#include "kernels/cuda/bank_block.cuh"
#include "kernels/cuda/banked_reads.cuh"

namespace evenflow {

template <class Memory, class State>
class BankedPass {
 public:
  // Of a head's columns from `column` on, the first of a quad.
  __device__ BankedPass(const BankedPlan& plan, const BankedShared& shared,
                        const HeadView<Memory>& head, const HeadBanks<Memory>& banks,
                        const AdvanceCall& call, int row_index, int index, int column)
      : plan_(plan),
        shared_(shared),
        head_(head),
        banks_(banks),
        quad_lane_(static_cast<int>(threadIdx.x) % kQuadLanes),
        column_(column),
        value_dim_(call.args.shape.value_dim),
        width_(QuadWidth(value_dim_, column)),
        block_(plan, shared),
        quad_(call.args.shape, column,
              head.template StateData<State>() +
                  int64_t{index} * (plan.banks - 1) * plan.dim * value_dim_ +
                  int64_t{column} * plan.dim),
        part_(call.parts +
              (int64_t{row_index} * call.args.shape.heads + index) * Quads(value_dim_) +
              column / kQuad) {}

  // Any segment.
  __device__ void Run(const Segment& segment) const {
    const uint64_t live = LiveBanks(plan_, banks_, segment.base_block);
    if (segment.pending()) {
      SetValues(segment);
    }
    for (int first = 0; first < segment.reads; first += kMaxReads) {
      if (segment.pending()) {
        ReadFolded<kMaxReads>(segment, live, first);
      } else {
        ReadStored<kMaxReads>(segment, live, first);
      }
    }
  }

  // A segment with one query, for which no block waits; `live` has a bit for each bank that it
  // reads.
  __device__ void RunStored(const Segment& segment, uint64_t live) const {
    ReadStored<1>(segment, live, 0);
  }

  // Likewise, for which one waits.
  __device__ void RunFolded(const Segment& segment, uint64_t live) const {
    SetValues(segment);
    ReadFolded<1>(segment, live, 0);
  }

 private:
  static constexpr bool kErases = Traits<Memory>::kErases;

  template <int kReads>
  using Reads = BankedReads<Memory, kReads>;

  // Rows of a bank that a lane loads at once.
  template <int kReads>
  static constexpr int kReadRows = kReads == 1 ? 16 : 4;
  template <int kReads>
  static constexpr int kFoldRows = kReads == 1 ? 8 : 4;

  template <int kReads>
  __device__ Reads<kReads> ReadsFrom(const Segment& segment, int first) const {
    return {plan_, shared_, head_, segment, column_, width_, first};
  }

  __device__ void SetValues(const Segment& segment) const {
    const int first = column_ / kWarpColumns * kWarpColumns;
    block_.SetValues([&](int j, int c) {
      const int t = segment.stored + j;
      const float* v = t < 0 ? head_.Value(t, 0, first) : head_.InputValue(t) + first;
      return first + c < value_dim_ ? v[c] : 0;
    });
  }

  // Reads [first, first + kReads) of the segment from banks as they are.
  template <int kReads>
  __device__ void ReadStored(const Segment& segment, uint64_t live, int first) const {
    constexpr int kRows = kReadRows<kReads>;
    Reads<kReads> reads = ReadsFrom<kReads>(segment, first);
    if (kReads > 1 || !quad_.AllVectors()) {
      reads.AddEntries();
      for (; live != 0; live &= live - 1) {
        reads.SetBank(First(live));
        for (int i = 0; i < plan_.LaneRows(); i += 4) {
          float4 s[4];
          quad_.Load(First(live), quad_lane_ + i * kQuadLanes, s);
          reads.Add(i, s);
        }
      }
    } else if (live == 0) {
      reads.AddEntries();
    } else {
      RawQuad<State> rows[kRows];
      int i = 0;
      quad_.LoadRaw(First(live), quad_lane_, rows);  // while the entries are added
      reads.AddEntries();
#pragma unroll 1
      while (true) {
        if (i == 0) {
          reads.SetBank(First(live));
        }
        float4 s[kRows];
#pragma unroll
        for (int n = 0; n < kRows; ++n) {
          s[n] = ToFloats(rows[n]);
        }
        reads.Add(i, s);
        i += kRows;
        if (i >= plan_.LaneRows()) {
          live &= live - 1;
          i = 0;
        }
        if (live == 0) {
          break;
        }
        quad_.LoadRaw(First(live), quad_lane_ + i * kQuadLanes, rows);
      }
    }
    reads.Write();
  }

  // The same from banks as they are with the block that waits, which are stored with the last reads
  // if they may be.
  template <int kReads>
  __device__ void ReadFolded(const Segment& segment, uint64_t live, int first) const {
    Reads<kReads> reads = ReadsFrom<kReads>(segment, first);
    HealthPart part;
    const bool stores = segment.stored < segment.stored_after && first + kReads >= segment.reads;
    reads.AddEntries();
    for (; live != 0; live &= live - 1) {
      reads.SetBank(First(live));
      ReadBankFolded(segment, First(live), stores, &part, &reads);
    }
    if (stores) {
      part.SumLanes(kQuadLanes);
      if (quad_lane_ == 0 && width_ > 0) {
        *part_ = part;
      }
    }
    reads.Write();
  }

  __device__ static int First(uint64_t banks) {
    return __ffsll(static_cast<long long>(banks)) - 1;
  }

  // Reads the bank as it is with the block that waits, and stores it if asked to.
  template <int kReads>
  __device__ void ReadBankFolded(const Segment& segment, int bank, bool stores, HealthPart* part,
                                 Reads<kReads>* reads) const {
    constexpr int kRows = kFoldRows<kReads>;
    const bool is_live = banks_.Live(bank, segment.stored_block);
    const bool takes = banks_.Takes(bank, segment.stored_block);
    const int carried = takes ? banks_.Carried(bank) : 0;
    if (!takes && !kErases) {
      const float decay = shared_.decays[bank];
      for (int i = 0; i < plan_.LaneRows(); i += kRows) {
        float4 s[kRows];
        quad_.Load(bank, quad_lane_ + i * kQuadLanes, s);
#pragma unroll
        for (int n = 0; n < kRows; ++n) {
          s[n] = make_float4(s[n].x * decay, s[n].y * decay, s[n].z * decay, s[n].w * decay);
        }
        Take(bank, i, stores, s, part, reads);
      }
      return;
    }
    if (is_live && carried == 0) {
      Stage<kReadRows<kReads>>([&](int i, auto& s) { quad_.Load(bank, i, s); });
    } else {
      Stage<kFoldRows<kReads>>([&](int i, auto& s) { quad_.Gather(bank, i, is_live, carried, s); });
    }
    __syncwarp();
    block_.TakeIn(bank, takes);
    for (int i = 0; i < plan_.LaneRows(); i += 4) {
      float4 s[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        s[n] = *shared_.Row(plan_, i + n);
      }
      Take(bank, i, stores, s, part, reads);
    }
    __syncwarp();
  }

  // Writes the tile; load(row, s) loads kRows rows from one of the lane's on.
  template <int kRows, class Load>
  __device__ void Stage(const Load& load) const {
#pragma unroll 1
    for (int i = 0; i < plan_.LaneRows(); i += kRows) {
      float4 s[kRows];
      load(quad_lane_ + i * kQuadLanes, s);
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        if (i + n < plan_.LaneRows()) {
          *shared_.Row(plan_, i + n) = s[n];
        }
      }
    }
  }

  // Reads and stores what is left of rows when they are stored, from row i of the lane's on.
  template <int kReads, int kRows>
  __device__ void Take(int bank, int i, bool stores, float4 (&s)[kRows], HealthPart* part,
                       Reads<kReads>* reads) const {
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      s[n] = BankQuad<State>::Round({s[n].x, s[n].y, s[n].z, s[n].w});
      const int r = quad_lane_ + (i + n) * kQuadLanes;
      if (stores && r < plan_.dim) {
        quad_.Store(bank, r, s[n], part);
      }
    }
    reads->Add(i, s);
  }

  const BankedPlan& plan_;
  const BankedShared& shared_;
  const HeadView<Memory>& head_;
  const HeadBanks<Memory>& banks_;
  const int quad_lane_;
  const int column_;
  const int value_dim_;
  const int width_;  // <= 0: the lane has none
  const BankBlock<kErases, sizeof(State) == 2> block_;
  const BankQuad<State> quad_;
  HealthPart* const part_;  // gets the health of what is stored
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_BANKED_PASS_CUH_
