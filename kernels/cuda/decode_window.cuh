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
  using T = typename Shape::T;
  using Shared = DecodeShared<Shape>;
  static constexpr int kDim = Shape::kKeyDim;

  __device__ DecodeWindow(const AdvanceCall& call, const DecodePlan& plan, const Row& row,
                          Shared* shared)
      : shared_(shared),
        commit_(call.args.window.commit),
        rollback_(call.args.window.rollback),
        ring_(call.args.window.ring()) {
    const Window& window = call.args.window;
    const int64_t block = plan.commit.Divide(row.position) * window.commit;
    place = plan.ring.Remainder(row.position);
    tokens = static_cast<int>(row.position - block);
    // The token before this one has stored all blocks before, unless this block was too young.
    const bool young = tokens == 0 || tokens < window.rollback;
    folds = young && call.Stored(row) < block;
    pending = folds ? window.commit : 0;
    // As Window::Stored: C more tokens may be stored once R tokens of the block have been read.
    stores = folds && tokens + 1 >= window.rollback;
    first = place - pending - tokens;
    first += first < 0 ? ring_ : 0;
  }

  // As it is for the token after, once this one's entries are among the loaded ones.
  __device__ void Next() {
    pending = stores ? 0 : pending;
    ++tokens;
    folds = tokens == commit_;
    if (folds) {
      pending = commit_;
      tokens = 0;
    }
    stores = pending > 0 && tokens + 1 >= rollback_;
    place = place + 1 < ring_ ? place + 1 : 0;
    first = place - pending - tokens;
    first += first < 0 ? ring_ : 0;
  }

  int place;       // of the token, in the rings
  int tokens;      // of its block, before it
  int pending;     // tokens of the block before that are not stored in the state, or none
  int first;       // the place of the first that is loaded, pending ones before those of the block
  bool folds;      // the pending ones, which no token of the row before has
  bool stores;     // what is folded
  float constant;  // log decay of the token or the head, where channels share it

  __device__ int entries() const { return tokens * kEntries; }

  __device__ int pending_entries() const { return pending * kEntries; }

  // In the ring, of the i-th loaded token.
  __device__ int Place(int i) const {
    const int index = first + i;
    return index < ring_ ? index : index - ring_;
  }

  // Likewise of the i-th loaded entry.
  __device__ int Entry(int i) const { return Place(i / kEntries) * kEntries + i % kEntries; }

  // Copies the loaded ones of a ring's tokens, of `dim` floats each, to the same places in shared
  // memory. A warp.
  __device__ void Copy(float* to, const float* from, int dim, CopyBarrier* end, bool once) const {
    const int loaded = pending + tokens;
    const int at_end = Least(loaded, ring_ - first);
    if (at_end > 0) {
      end->Copy(to + first * dim, from + first * dim, 4 * dim * at_end, once);
    }
    if (loaded > at_end) {
      end->Copy(to, from, 4 * dim * (loaded - at_end), once);
    }
  }

  // [key_dim]; decayed to the block's end for pending entries once DecayPending is done.
  __device__ float* Key(int entry) const { return shared_->Keys() + entry * kDim; }

  // What is read with, as the state sees it: by lanes of a quad, see DecodeShape::kLaneStride.
  __device__ const float* Read(int read) const { return shared_->reads[read]; }

  // What an entry of the block weighs in a read; the token's own come last.
  __device__ float Weight(int read, int e) const { return shared_->weights[read][e]; }

  // What the state has decayed by, for decays that all channels share.
  __device__ float StateDecay() const { return DecayBetween(tokens + 1, ScalarLog(), 0); }

  // What a fold decays the state by.
  __device__ float FoldDecay(int row) const {
    return T::kChannels ? shared_->fold_decay[row]
                        : DecayBetween(commit_, RingScalarLog(Place(pending - 1)), 0);
  }

  // The token's log decay since the block's start, where channels share it.
  __device__ float ScalarLog() const {
    if constexpr (Memory::kDecay == Decay::kScalar) {
      return (tokens == 0 ? 0 : RingScalarLog(Place(pending + tokens - 1))) + ClampLog(constant);
    } else {
      return 0;
    }
  }

  // Of decays by channels, what is read with in row r. shared.log[r] is the token's own at first.
  // Of that thread which wrote the row's inputs.
  __device__ void DecayInputs(int r) const {
    const float log =
        (tokens == 0 ? 0 : RingLogs(Place(pending + tokens - 1))[r]) + ClampLog(shared_->log[r]);
    shared_->log[r] = log;
    const float decay = expf(log);
#pragma unroll
    for (int read = 0; read < T::kReads; ++read) {
      shared_->reads[read][Shape::LaneIndex(r)] =
          shared_->vectors[Shape::VectorOf(read)][r] * decay;
    }
  }

  // Up to four products at a time: for each of kSteps entries one with each read. A warp's part.
  __device__ void Weigh(int warp) const {
    constexpr int kReads = T::kReads;
    constexpr int kSteps = 4 / kReads;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float x[kReads][kLaneRows], log[kLaneRows];
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
#pragma unroll
      for (int read = 0; read < kReads; ++read) {
        x[read][i] = shared_->vectors[Shape::VectorOf(read)][lane + 32 * i];
      }
      log[i] = T::kChannels ? shared_->log[lane + 32 * i] : 0;
    }
    const float scalar_log = ScalarLog();
    const int count = entries() + kEntries;
    for (int begin = warp; begin < count; begin += Shape::kWarps * kSteps) {
      float sums[4] = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int e = Least(begin + step * Shape::kWarps, count - 1);
        if (T::kChannels && e < begin + step * Shape::kWarps) {
          break;  // powers are worth a branch
        }
        const bool own = e >= entries();
        const float* w =
            (own ? shared_->vectors[1 + e - entries()] : Key(Entry(pending_entries() + e))) + lane;
        const float* entry_log = RingLogs(Place(pending + e / kEntries)) + lane;
#pragma unroll
        for (int i = 0; i < kLaneRows; ++i) {
          float decayed = w[32 * i];
          if (T::kChannels && !own) {
            decayed *= expf(log[i] - entry_log[32 * i]);
          }
#pragma unroll
          for (int read = 0; read < kReads; ++read) {
            float* sum = &sums[step * kReads + read];
            *sum = fmaf(decayed, x[read][i], *sum);
          }
        }
      }
      const float sum = SumWarpOfFour(sums);
      const int e = begin + lane / 8 / kReads * Shape::kWarps;
      if (lane % 8 == 0 && lane / 8 < kSteps * kReads && e < count) {
        const int token = e / kEntries;
        const float entry_log = Memory::kDecay == Decay::kScalar && token < tokens
                                    ? RingScalarLog(Place(pending + token))
                                    : scalar_log;
        shared_->weights[lane / 8 % kReads][e] =
            sum * DecayBetween(tokens - token, scalar_log, entry_log);
      }
    }
  }

  // Keys of pending entries, to the end of their block, and by channels what a fold decays the
  // state by. A warp's part.
  __device__ void DecayPending(int warp) const {
    if constexpr (T::kChannels) {
      ForKeyRows<Shape>(
          [&](int r) { shared_->fold_decay[r] = expf(RingLogs(Place(pending - 1))[r]); });
    }
    if constexpr (Memory::kDecay != Decay::kNone) {
      const int last = Place(pending - 1);
      for (int j = warp; j < pending_entries(); j += Shape::kWarps) {
        const int token = j / kEntries;
        float decay = 1;
        if constexpr (!T::kChannels) {
          decay =
              DecayBetween(commit_ - 1 - token, RingScalarLog(last), RingScalarLog(Place(token)));
        }
#pragma unroll
        for (int r = static_cast<int>(threadIdx.x) % 32; r < kDim; r += 32) {
          if constexpr (T::kChannels) {
            decay = expf(RingLogs(last)[r] - RingLogs(Place(token))[r]);
          }
          Key(Entry(j))[r] *= decay;
        }
      }
    }
  }

 private:
  static constexpr int kEntries = T::kEntries;  // of a token
  static constexpr int kLaneRows = kDim / 32;

  __device__ const float* RingLogs(int place) const {
    return shared_->Logs(ring_) + place * kDim;
  }

  __device__ float RingScalarLog(int place) const {
    return shared_->scalar_logs[place];
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
  const int rollback_;
  const int ring_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_WINDOW_CUH_
