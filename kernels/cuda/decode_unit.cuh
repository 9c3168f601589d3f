// A unit of the decode kernel as its scorers and consumers see it: the token's inputs, decays and
// the entries before it, all in shared memory.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_UNIT_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_UNIT_CUH_

#include "kernels/cuda/decode_plan.cuh"

namespace evenflow {

template <class Shape>
class DecodeUnit {
 public:
  using Memory = typename Shape::Memory;
  using T = Traits<Memory>;
  using Layout = UnitLayout<Shape>;
  static constexpr int kDim = Shape::kKeyDim;

  __device__ DecodeUnit(const UnitInfo& info, float* data, float* weights, int ring, int commit)
      : pending(info.pending),
        entries(info.row.entries),
        data_(data),
        weights_(weights),
        first_(info.first),
        ring_(ring),
        commit_(commit) {}

  const int pending;
  const int entries;

  // Of the i-th loaded entry.
  __device__ int Entry(int i) const {
    const int entry = first_ + i;
    return entry < ring_ ? entry : entry - ring_;
  }

  // [key_dim]; decayed to the block's end for pending entries once DecayKeys is done.
  __device__ float* Key(int entry) const { return data_ + Layout::kKeys + entry * kDim; }

  __device__ float Beta() const { return Memory::kHasBeta ? data_[Layout::kBeta] : 1; }

  // The reads' inputs as the state sees them.
  __device__ const float* Query() const {
    return data_ + (T::kChannels ? Layout::kDecayedQuery : Layout::kQuery);
  }

  __device__ const float* EraseKey() const {
    return data_ + (T::kChannels ? Layout::kDecayedKey : Layout::kKey);
  }

  // What the entries of the block weigh in the reads, the token's own the last.
  __device__ const float* QueryWeights() const { return weights_; }

  __device__ const float* EraseWeights() const { return weights_ + kMaxEntries; }

  // What the state has decayed by, for decays that all channels share.
  __device__ float StateDecay() const { return DecayBetween(entries + 1, ScalarLog(), 0); }

  // What a fold decays the state by: shared by all channels, or [key_dim].
  __device__ float FoldDecay() const {
    return DecayBetween(commit_, RingScalarLog(Entry(pending - 1)), 0);
  }

  __device__ const float* FoldDecays() const { return data_ + Layout::kFoldDecay; }

  __device__ const float* TokenKey() const { return data_ + Layout::kKey; }

  // The token's log decay since the block's start.
  __device__ float Log(int r) const {
    return (entries == 0 ? 0 : RingLogs(Entry(pending + entries - 1))[r]) +
           ClampLog(data_[Layout::kLogDecay + r]);
  }

  __device__ float ScalarLog() const {
    if constexpr (Memory::kDecay == Decay::kScalar) {
      return (entries == 0 ? 0 : RingScalarLog(Entry(pending + entries - 1))) +
             ClampLog(data_[Layout::kConstant]);
    } else {
      return 0;
    }
  }

  // What scorers do, `warp` being the one of Shape::kScorers.
  __device__ void Score(int warp) const {
    Weigh(warp);
    if (T::kChannels) {
      DecayInputs(32 * warp + static_cast<int>(threadIdx.x) % 32);
    }
    if (Memory::kDecay != Decay::kNone) {
      for (int j = warp; j < pending; j += Shape::kScorers) {
        DecayKey(j);
      }
    }
  }

 private:
  static constexpr int kLaneRows = kDim / 32;

  __device__ const float* RingLogs(int entry) const {
    return data_ + Layout::Logs(ring_) + entry * kDim;
  }

  __device__ float RingScalarLog(int entry) const { return data_[Layout::kScalarLogs + entry]; }

  // e^{l_i - l_j}, for decays that all channels share.
  __device__ float DecayBetween(int lag, float log_i, float log_j) const {
    if constexpr (Memory::kDecay == Decay::kConstant) {
      return expf(static_cast<float>(lag) * data_[Layout::kConstant]);
    } else if constexpr (Memory::kDecay == Decay::kScalar) {
      return expf(log_i - log_j);
    } else {
      return 1;
    }
  }

  __device__ void DecayInputs(int thread) const {
    for (int r = thread; r < kDim; r += 32 * Shape::kScorers) {
      const float decay = expf(Log(r));
      data_[Layout::kDecayedQuery + r] = data_[Layout::kQuery + r] * decay;
      if (T::kErases) {
        data_[Layout::kDecayedKey + r] = data_[Layout::kKey + r] * decay;
      }
      if (pending > 0) {
        data_[Layout::kFoldDecay + r] = expf(RingLogs(Entry(pending - 1))[r]);
      }
    }
  }

  // Four products at a time: for each of kSteps entries one with the query and, where the memory
  // erases, one with the key.
  __device__ void Weigh(int warp) const {
    constexpr int kReads = T::kErases ? 2 : 1;
    constexpr int kSteps = 4 / kReads;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float query[kLaneRows], key[kLaneRows], log[kLaneRows];
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      query[i] = data_[Layout::kQuery + lane + 32 * i];
      key[i] = data_[Layout::kKey + lane + 32 * i];
      log[i] = T::kChannels ? Log(lane + 32 * i) : 0;
    }
    const float scalar_log = ScalarLog();
    for (int first = warp * kSteps; first <= entries; first += Shape::kScorers * kSteps) {
      float sums[4] = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const bool own = first + step >= entries;
        const int entry = Entry(pending + Least(first + step, entries));
        const float* w = (own ? data_ + Layout::kKey : Key(entry)) + lane;
#pragma unroll
        for (int i = 0; i < kLaneRows; ++i) {
          float decayed = w[32 * i];
          if (T::kChannels && !own) {
            decayed *= expf(log[i] - RingLogs(entry)[lane + 32 * i]);
          }
          sums[step * kReads] = fmaf(decayed, query[i], sums[step * kReads]);
          if (T::kErases) {
            sums[step * kReads + 1] = fmaf(decayed, key[i], sums[step * kReads + 1]);
          }
        }
      }
      const float sum = SumWarpOfFour(sums);
      const int e = first + lane / 8 / kReads;
      if (lane % 8 == 0 && e <= entries) {
        const float entry_log = Memory::kDecay == Decay::kScalar && e < entries
                                    ? RingScalarLog(Entry(pending + e))
                                    : scalar_log;
        weights_[lane / 8 % kReads * kMaxEntries + e] =
            sum * DecayBetween(entries - e, scalar_log, entry_log);
      }
    }
  }

  // Of the j-th pending entry, to the end of its block.
  __device__ void DecayKey(int j) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int last = Entry(pending - 1);
    const int entry = Entry(j);
    float decay = 1;
    if constexpr (!T::kChannels) {
      decay = DecayBetween(commit_ - 1 - j, RingScalarLog(last), RingScalarLog(entry));
    }
#pragma unroll
    for (int r = lane; r < kDim; r += 32) {
      if constexpr (T::kChannels) {
        decay = expf(RingLogs(last)[r] - RingLogs(entry)[r]);
      }
      Key(entry)[r] *= decay;
    }
  }

  float* const data_;
  float* const weights_;  // [read, entry]
  const int first_;
  const int ring_;
  const int commit_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_UNIT_CUH_
