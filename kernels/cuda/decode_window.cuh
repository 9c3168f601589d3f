// The window of a row's head as a block of the decode kernel sees it: the entries before the token,
// what they weigh in its reads, and what decays.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_WINDOW_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_WINDOW_CUH_

#include "kernels/cuda/decode_plan.cuh"

namespace evenflow {

template <class Shape>
class DecodeWindow {
 public:
  using Memory = typename Shape::Memory;
  using T = Traits<Memory>;
  using Shared = DecodeShared<Shape>;
  static constexpr int kDim = Shape::kKeyDim;

  __device__ DecodeWindow(const AdvanceCall& call, const DecodePlan& plan, const Row& row,
                          Shared* shared)
      : shared_(shared), commit_(call.args.window.commit), ring_(call.args.window.ring()) {
    const Window& window = call.args.window;
    const int64_t block = plan.commit.Divide(row.position) * window.commit;
    entry = plan.ring.Remainder(row.position);
    entries = static_cast<int>(row.position - block);
    // The token before this one has stored all blocks before, unless this block was too young.
    const bool young = entries == 0 || entries < window.rollback;
    const bool folds = young && call.Stored(row) < block;
    pending = folds ? window.commit : 0;
    // As Window::Stored: C more tokens may be stored once R tokens of the block have been read.
    stores = folds && entries + 1 >= window.rollback;
    first = entry - pending - entries;
    first += first < 0 ? ring_ : 0;
  }

  int entry;       // of the token, in the rings
  int entries;     // tokens of its block before it
  int pending;     // entries that are to be folded: those of the block before, or none
  int first;       // the first entry that is loaded, pending ones before those of the block
  bool stores;     // what is folded
  float constant;  // log decay of the token or the head, where channels share it

  // Of the i-th loaded entry.
  __device__ int Entry(int i) const {
    const int index = first + i;
    return index < ring_ ? index : index - ring_;
  }

  __device__ int loaded() const { return pending + entries; }

  // Copies the loaded ones of a ring's entries, of key_dim floats each, to the same places in
  // shared memory. A warp.
  __device__ void Copy(float* to, const float* from, CopyBarrier* end) const {
    const int at_end = Least(loaded(), ring_ - first);
    if (at_end > 0) {
      end->Copy(to + first * kDim, from + first * kDim, 4 * kDim * at_end);
    }
    if (loaded() > at_end) {
      end->Copy(to, from, 4 * kDim * (loaded() - at_end));
    }
  }

  // [key_dim]; decayed to the block's end for pending entries once DecayPending is done.
  __device__ float* Key(int index) const { return shared_->Keys() + index * kDim; }

  // What is read with, as the state sees it.
  __device__ const float* ReadQuery() const {
    return T::kChannels ? shared_->read_query : shared_->query;
  }

  __device__ const float* ReadKey() const {
    return T::kChannels ? shared_->read_key : shared_->key;
  }

  // What an entry of the block weighs in the reads; the token's own is the last.
  __device__ float QueryWeight(int e) const { return shared_->weights[0][e]; }

  __device__ float EraseWeight(int e) const { return shared_->weights[1][e]; }

  // What the state has decayed by, for decays that all channels share.
  __device__ float StateDecay() const { return DecayBetween(entries + 1, ScalarLog(), 0); }

  // What a fold decays the state by.
  __device__ float FoldDecay(int row) const {
    return T::kChannels ? shared_->fold_decay[row]
                        : DecayBetween(commit_, RingScalarLog(Entry(pending - 1)), 0);
  }

  // The token's log decay since the block's start, where channels share it.
  __device__ float ScalarLog() const {
    if constexpr (Memory::kDecay == Decay::kScalar) {
      return (entries == 0 ? 0 : RingScalarLog(Entry(loaded() - 1))) + ClampLog(constant);
    } else {
      return 0;
    }
  }

  // Of decays by channels, the inputs of row r and the fold. shared.log[r] is the token's own at
  // first. Of that thread which wrote the row's inputs.
  __device__ void DecayInputs(int r) const {
    const float log =
        (entries == 0 ? 0 : RingLogs(Entry(loaded() - 1))[r]) + ClampLog(shared_->log[r]);
    shared_->log[r] = log;
    const float decay = expf(log);
    shared_->read_query[r] = shared_->query[r] * decay;
    if (T::kErases) {
      shared_->read_key[r] = shared_->key[r] * decay;
    }
    if (pending > 0) {
      shared_->fold_decay[r] = expf(RingLogs(Entry(pending - 1))[r]);
    }
  }

  // Four products at a time: for each of kSteps entries one with the query and, where the memory
  // erases, one with the key. A warp's part.
  __device__ void Weigh(int warp) const {
    constexpr int kReads = T::kErases ? 2 : 1;
    constexpr int kSteps = 4 / kReads;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float query[kLaneRows], key[kLaneRows], log[kLaneRows];
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      query[i] = shared_->query[lane + 32 * i];
      key[i] = shared_->key[lane + 32 * i];
      log[i] = T::kChannels ? shared_->log[lane + 32 * i] : 0;
    }
    const float scalar_log = ScalarLog();
    for (int begin = warp * kSteps; begin <= entries; begin += Shape::kWarps * kSteps) {
      float sums[4] = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const bool own = begin + step >= entries;
        const int index = Entry(pending + Least(begin + step, entries));
        const float* w = (own ? shared_->key : Key(index)) + lane;
#pragma unroll
        for (int i = 0; i < kLaneRows; ++i) {
          float decayed = w[32 * i];
          if (T::kChannels && !own) {
            decayed *= expf(log[i] - RingLogs(index)[lane + 32 * i]);
          }
          sums[step * kReads] = fmaf(decayed, query[i], sums[step * kReads]);
          if (T::kErases) {
            sums[step * kReads + 1] = fmaf(decayed, key[i], sums[step * kReads + 1]);
          }
        }
      }
      const float sum = SumWarpOfFour(sums);
      const int e = begin + lane / 8 / kReads;
      if (lane % 8 == 0 && e <= entries) {
        const float entry_log = Memory::kDecay == Decay::kScalar && e < entries
                                    ? RingScalarLog(Entry(pending + e))
                                    : scalar_log;
        shared_->weights[lane / 8 % kReads][e] =
            sum * DecayBetween(entries - e, scalar_log, entry_log);
      }
    }
  }

  // Keys of pending entries, to the end of their block. A warp's part.
  __device__ void DecayPending(int warp) const {
    if constexpr (Memory::kDecay != Decay::kNone) {
      const int last = Entry(pending - 1);
      for (int j = warp; j < pending; j += Shape::kWarps) {
        const int index = Entry(j);
        float decay = 1;
        if constexpr (!T::kChannels) {
          decay = DecayBetween(commit_ - 1 - j, RingScalarLog(last), RingScalarLog(index));
        }
#pragma unroll
        for (int r = static_cast<int>(threadIdx.x) % 32; r < kDim; r += 32) {
          if constexpr (T::kChannels) {
            decay = expf(RingLogs(last)[r] - RingLogs(index)[r]);
          }
          Key(index)[r] *= decay;
        }
      }
    }
  }

 private:
  static constexpr int kLaneRows = kDim / 32;

  __device__ const float* RingLogs(int index) const {
    return shared_->Logs(ring_) + index * kDim;
  }

  __device__ float RingScalarLog(int index) const {
    return shared_->scalar_logs[index];
  }

  // e^{l_i - l_j}, for decays that all channels share.
  __device__ float DecayBetween(int lag, float log_i, float log_j) const {
    if constexpr (Memory::kDecay == Decay::kConstant) {
      return expf(static_cast<float>(lag) * constant);
    } else if constexpr (Memory::kDecay == Decay::kScalar) {
      return expf(log_i - log_j);
    } else {
      return 1;
    }
  }

  Shared* const shared_;
  const int commit_;
  const int ring_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_WINDOW_CUH_
