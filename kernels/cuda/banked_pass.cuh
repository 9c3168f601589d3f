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

  // Rows of a bank that a lane has on their way at once.
  template <int kReads>
  static constexpr int kReadRows = kReads == 1 ? 16 : 4;
  template <int kReads>
  static constexpr int kFoldRows = kReads == 1 ? 8 : 4;

  __device__ float4 Value(int t) const {
    const float* v = t < 0 ? head_.Value(t, 0, column_) : head_.InputValue(t) + column_;
    return make_float4(width_ > 0 ? v[0] : 0, width_ > 1 ? v[1] : 0, width_ > 2 ? v[2] : 0,
                       width_ > 3 ? v[3] : 0);
  }

  // Queries that read a bank together.
  template <int kReads>
  struct Reads {
    int first;
    float weights[kReads];  // r of the bank
    float sums[kReads][kQuad] = {};
  };

  // sums[n] += r_n x_n s, from row i of the lane's on.
  template <int kReads, int kRows>
  __device__ void Add(int i, const float4 (&s)[kRows], Reads<kReads>* reads) const {
#pragma unroll
    for (int m = 0; m < kRows; m += 4) {
      if (i + m < plan_.LaneRows()) {
#pragma unroll
        for (int n = 0; n < kReads; ++n) {
          AddRows(shared_.X(plan_, reads->first + n, i + m), reads->weights[n], s + m,
                  reads->sums[n]);
        }
      }
    }
  }

  // Reads [first, first + kReads) of the segment. What is computed for those that it does not have
  // is left alone.
  template <int kReads>
  __device__ void Read(const Segment& segment, int first, bool stores) const {
    Reads<kReads> reads;
    reads.first = first;
    HealthPart part;
    for (int bank = 0; bank < plan_.banks; ++bank) {
      if (!banks_.Live(bank, segment.base_block)) {
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
    for (int i = 0; i < plan_.LaneRows(); i += kRows) {
      float4 s[kRows];
      quad_.Load(bank, quad_lane_ + i * kQuadLanes, s);
      Add(i, s, reads);
    }
  }

  // Reads the bank as it is with the block that waits, and stores it if `part` is given.
  template <int kReads>
  __device__ void ReadFolded(const Segment& segment, int bank, HealthPart* part,
                             Reads<kReads>* reads) const {
    constexpr int kRows = kFoldRows<kReads>;
    const bool is_live = banks_.Live(bank, segment.stored_block);
    const bool takes = banks_.Takes(bank, segment.stored_block);
    const int carried = takes ? banks_.Carried(bank) : 0;
    if constexpr (kErases) {
      for (int i = 0; i < plan_.LaneRows(); i += 4) {
        float4 s[4];
        quad_.Gather(bank, quad_lane_ + i * kQuadLanes, is_live, carried, s);
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          shared_.work[32 * (i + n)] = s[n];
        }
      }
      EraseEntries(plan_, shared_, takes);
    }
    const float4* values = kErases ? shared_.erased : shared_.values;
    const int entries = takes || kErases ? plan_.commit : 0;
    for (int i = 0; i < plan_.LaneRows(); i += kRows) {
      float4 s[kRows];
      if constexpr (kErases) {
#pragma unroll
        for (int n = 0; n < kRows; ++n) {
          s[n] = i + n < plan_.LaneRows() ? shared_.work[32 * (i + n)] : make_float4(0, 0, 0, 0);
        }
      } else {
        quad_.Gather(bank, quad_lane_ + i * kQuadLanes, is_live, carried, s);
      }
      Fold(bank, i, values, entries, s);
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        const int r = quad_lane_ + (i + n) * kQuadLanes;
        if (part != nullptr && r < plan_.dim) {
          quad_.Store(bank, r, s[n], part);
        }
      }
      Add(i, s, reads);
    }
    __syncwarp();
  }

  // s <- what is stored of d s + sum_j (c_j k_j) v_j^T, from row i of the lane's on.
  template <int kRows>
  __device__ void Fold(int bank, int i, const float4* values, int entries,
                       float4 (&s)[kRows]) const {
    const float decay = shared_.decays[bank];
    float sum[kRows][kQuad];
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      sum[n][0] = s[n].x * decay;
      sum[n][1] = s[n].y * decay;
      sum[n][2] = s[n].z * decay;
      sum[n][3] = s[n].w * decay;
    }
    for (int j = 0; j < entries; ++j) {
      const float weight = shared_.entry_weights[j * plan_.banks + bank];
      const float4 value = values[j];
      const float4 weighted =
          make_float4(weight * value.x, weight * value.y, weight * value.z, weight * value.w);
#pragma unroll
      for (int m = 0; m < kRows; m += 4) {
        if (i + m < plan_.LaneRows()) {
          const float4 key = shared_.Key(plan_, j, i + m);
          AddScaled(key.x, weighted, sum[m]);
          AddScaled(key.y, weighted, sum[m + 1]);
          AddScaled(key.z, weighted, sum[m + 2]);
          AddScaled(key.w, weighted, sum[m + 3]);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      s[n] = BankQuad<State>::Round(sum[n]);
    }
  }

  // Adds the entries and writes the result.
  __device__ void Write(const Segment& segment, int read, float (&sum)[kQuad]) const {
    const int i = segment.first + read / head_.queries();
    for (int j = segment.base + quad_lane_; j <= i; j += kQuadLanes) {
      const int n = read * plan_.span + j - segment.base;
      AddScaled(shared_.pair_weights[n] * shared_.scores[n], Value(j), sum);
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
