// A pass over a head's banks, for a quad of columns: reads them for the queries of a segment and
// takes the block that waits in on the way. For .cu files; quad.cuh has who adds up what.
#ifndef EVENFLOW_KERNELS_CUDA_BANKED_PASS_CUH_
#define EVENFLOW_KERNELS_CUDA_BANKED_PASS_CUH_

#include "kernels/cuda/bank_quad.cuh"
#include "kernels/cuda/banked_prepare.cuh"

namespace evenflow {

template <class Memory, class State>
class BankedPass {
 public:
  // `state`: of bank 0, the quad that begins at `column`. `part` gets the health of what is stored.
  __device__ BankedPass(const BankedPlan& plan, const BankedShared& shared,
                        const HeadView<Memory>& head, const HeadBanks<Memory>& banks,
                        const AdvanceArgs& args, int column, State* state, HealthPart* part)
      : plan_(plan),
        shared_(shared),
        head_(head),
        banks_(banks),
        quad_lane_(static_cast<int>(threadIdx.x) % kQuadLanes),
        column_(column),
        width_(QuadWidth(args.shape.value_dim, column)),
        quad_(args.shape, column, state),
        part_(part) {}

  __device__ void Run(const Segment& segment) const {
    for (int j = quad_lane_; segment.pending() && j < plan_.commit; j += kQuadLanes) {
      shared_.values[j] = Value(segment.stored + j);
    }
    __syncwarp();
    if (segment.reads == 1) {
      return Read<1>(segment, 0, segment.stored < segment.stored_after);
    }
    for (int first = 0; first < segment.reads; first += kMaxReads) {
      const bool is_last = first + kMaxReads >= segment.reads;
      Read<kMaxReads>(segment, first, is_last && segment.stored < segment.stored_after);
    }
  }

 private:
  static constexpr bool kErases = Traits<Memory>::kErases;
  static constexpr int kFoldRows = 4;

  // Rows of a bank that a lane has on their way at once.
  template <int kReads>
  static constexpr int kReadRows = kReads == 1 ? 8 : 2;

  // A block of positions by its number.
  __device__ int64_t Block(int t) const { return head_.Position(t) / plan_.commit; }

  __device__ float4 Value(int t) const {
    const float* v = t < 0 ? head_.Value(t, 0, column_) : head_.InputValue(t) + column_;
    return make_float4(width_ > 0 ? v[0] : 0, width_ > 1 ? v[1] : 0, width_ > 2 ? v[2] : 0,
                       width_ > 3 ? v[3] : 0);
  }

  // s[n]: row first + 8 n, as far as there is one, of what the bank holds before entries come: its
  // own, and what is carried into it.
  template <int kRows>
  __device__ void Gather(int bank, int first, int64_t block, float4 (&s)[kRows]) const {
    const bool is_live = banks_.Live(bank, block);
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const int r = first + n * kQuadLanes;
      s[n] = is_live && r < plan_.dim ? quad_.Load(bank, r) : make_float4(0, 0, 0, 0);
    }
    const int carried = banks_.Takes(bank, block) ? banks_.Carried(bank) : 0;
    for (int from = 0; from < carried; ++from) {
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        const int r = first + n * kQuadLanes;
        float sum[kQuad] = {s[n].x, s[n].y, s[n].z, s[n].w};
        if (r < plan_.dim) {
          AddScaled(1, quad_.Load(from, r), sum);
        }
        s[n] = BankQuad<State>::Round(sum);
      }
    }
  }

  // Queries that read a bank together.
  template <int kReads>
  struct Reads {
    const float* x;         // [read, key_dim]
    float weights[kReads];  // r of the bank
    float sums[kReads][kQuad] = {};
  };

  // sums[n] += r_n x_n[r] s.
  template <int kReads>
  __device__ void AddRow(int r, float4 s, Reads<kReads>* reads) const {
#pragma unroll
    for (int n = 0; n < kReads; ++n) {
      AddScaled(reads->weights[n] * reads->x[n * plan_.dim + r], s, reads->sums[n]);
    }
  }

  // Reads [first, first + kReads) of the segment. What is computed for those that it does not have
  // is left alone.
  template <int kReads>
  __device__ void Read(const Segment& segment, int first, bool stores) const {
    Reads<kReads> reads;
    reads.x = shared_.x + first * plan_.dim;
    HealthPart part;
    for (int bank = 0; bank < plan_.banks; ++bank) {
      if (!banks_.Live(bank, Block(segment.base))) {
        continue;
      }
#pragma unroll
      for (int n = 0; n < kReads; ++n) {
        reads.weights[n] = shared_.read_weights[(first + n) * plan_.banks + bank];
      }
      if (segment.pending()) {
        ReadFolded(segment, bank, stores ? &part : nullptr, &reads);
      } else {
        ReadStored(bank, &reads);
      }
    }
    if (stores) {
      part.SumLanes(kQuadLanes);
      if (quad_lane_ == 0 && width_ > 0) {
        *part_ = part;
      }
    }
#pragma unroll
    for (int n = 0; n < kReads; ++n) {
      if (first + n < segment.reads) {
        Write(segment, first + n, reads.sums[n]);
      }
    }
  }

  template <int kReads>
  __device__ void ReadStored(int bank, Reads<kReads>* reads) const {
    constexpr int kRows = kReadRows<kReads>;
    for (int row = quad_lane_; row < plan_.dim; row += kRows * kQuadLanes) {
      float4 s[kRows];
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        const int r = row + n * kQuadLanes;
        s[n] = r < plan_.dim ? quad_.Load(bank, r) : make_float4(0, 0, 0, 0);
      }
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        const int r = row + n * kQuadLanes;
        if (r < plan_.dim) {
          AddRow(r, s[n], reads);
        }
      }
    }
  }

  // Reads the bank as it is with the block that waits, and stores it if `part` is given.
  template <int kReads>
  __device__ void ReadFolded(const Segment& segment, int bank, HealthPart* part,
                             Reads<kReads>* reads) const {
    const int64_t block = Block(segment.stored);
    const bool takes = banks_.Takes(bank, block);
    if constexpr (kErases) {
      for (int i = 0; i < plan_.Rows(); i += kFoldRows) {
        float4 s[kFoldRows];
        Gather(bank, quad_lane_ + i * kQuadLanes, block, s);
#pragma unroll
        for (int n = 0; n < kFoldRows; ++n) {
          if (i + n < plan_.Rows()) {
            shared_.work[32 * (i + n)] = s[n];
          }
        }
      }
      EraseEntries(plan_, shared_, takes);
    }
    const float decay = shared_.decays[bank];
    const float4* values = kErases ? shared_.erased : shared_.values;
    const int entries = takes || kErases ? plan_.commit : 0;
    for (int i = 0; i < plan_.Rows(); i += kFoldRows) {
      const int row = quad_lane_ + i * kQuadLanes;
      float4 s[kFoldRows];
      if constexpr (kErases) {
#pragma unroll
        for (int n = 0; n < kFoldRows; ++n) {
          s[n] = i + n < plan_.Rows() ? shared_.work[32 * (i + n)] : make_float4(0, 0, 0, 0);
        }
      } else {
        Gather(bank, row, block, s);
      }
      float sum[kFoldRows][kQuad];
#pragma unroll
      for (int n = 0; n < kFoldRows; ++n) {
        sum[n][0] = s[n].x * decay;
        sum[n][1] = s[n].y * decay;
        sum[n][2] = s[n].z * decay;
        sum[n][3] = s[n].w * decay;
      }
      for (int j = 0; j < entries; ++j) {
        const float weight = shared_.entry_weights[j * plan_.banks + bank];
        const float4 value = values[j];
#pragma unroll
        for (int n = 0; n < kFoldRows; ++n) {
          const int r = row + n * kQuadLanes;
          if (r < plan_.dim) {
            AddScaled(weight * shared_.keys[j * plan_.dim + r], value, sum[n]);
          }
        }
      }
#pragma unroll
      for (int n = 0; n < kFoldRows; ++n) {
        const int r = row + n * kQuadLanes;
        if (r < plan_.dim) {
          const float4 folded = BankQuad<State>::Round(sum[n]);
          if (part != nullptr) {
            quad_.Store(bank, r, folded, part);
          }
          AddRow(r, folded, reads);
        }
      }
    }
    __syncwarp();
  }

  // Adds the entries and writes the result.
  __device__ void Write(const Segment& segment, int read, float (&sum)[kQuad]) const {
    const int i = segment.first + read / head_.queries();
    for (int j = segment.base + quad_lane_; j <= i; j += kQuadLanes) {
      AddScaled(shared_.pairs[read * plan_.span + j - segment.base], Value(j), sum);
    }
    const float o = SumQuad(sum);
    const int c = quad_lane_ / 2;
    if (c < width_ && quad_lane_ % 2 == 0) {
      head_.Output(i, read % head_.queries())[column_ + c] = o;
    }
  }

  const BankedPlan& plan_;
  const BankedShared& shared_;
  const HeadView<Memory>& head_;
  const HeadBanks<Memory>& banks_;
  const int quad_lane_;
  const int column_;
  const int width_;  // <= 0: the lane has none
  const BankQuad<State> quad_;
  HealthPart* const part_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_BANKED_PASS_CUH_
