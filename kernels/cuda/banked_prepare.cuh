// What a block of the kernel that advances banked memories needs before it reads the banks: no
// columns are needed for it. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_BANKED_PREPARE_CUH_
#define EVENFLOW_KERNELS_CUDA_BANKED_PREPARE_CUH_

#include "kernels/cuda/banked_plan.cuh"
#include "kernels/cuda/head_view.cuh"
#include "kernels/math/bank_weights.h"

namespace evenflow {

template <class Memory>
using HeadBanks = BankWeights<HeadView<Memory>, typename Memory::Banks>;

// Fills what BankedShared has of a segment but for values, work and erased. All threads of a block.
template <class Memory>
class BankedPrepare {
 public:
  static constexpr bool kErases = Traits<Memory>::kErases;

  __device__ BankedPrepare(const BankedPlan& plan, const BankedShared& shared,
                           const HeadView<Memory>& head, const HeadBanks<Memory>& banks)
      : plan_(plan),
        shared_(shared),
        head_(head),
        banks_(banks),
        thread_(static_cast<int>(threadIdx.x)),
        threads_(static_cast<int>(blockDim.x)),
        lane_(thread_ % 32) {}

  __device__ void Run(const Segment& segment) const {
    const int warp = thread_ / 32, warps = threads_ / 32;
    if constexpr (kErases) {
      for (int read = warp; read < segment.reads; read += warps) {
        LeadBack(segment, read);
      }
    } else {
      for (int read = warp; read < segment.reads; read += warps) {
        Spread(Query(segment, read), shared_.x + read * plan_.KeyStride());
      }
      const int groups = (plan_.span + 3) / 4;
      for (int n = warp; n < segment.reads * groups; n += warps) {
        ScoreFour(segment, n / groups, n % groups * 4);
      }
    }
    if (segment.pending()) {
      for (int j = warp; j < plan_.commit; j += warps) {
        Spread(head_.Keys(segment.stored + j), shared_.keys + j * plan_.KeyStride());
      }
      PrepareFold(segment.stored);
    }
    for (int n = thread_; n < segment.reads * plan_.span; n += threads_) {
      const int i = Token(segment, n / plan_.span), j = segment.base + n % plan_.span;
      if (j <= i) {
        shared_.pair_weights[n] = banks_.Pair(i, j);
      }
    }
    for (int n = threads_ - 1 - thread_; n < segment.reads * plan_.banks; n += threads_) {
      shared_.read_weights[n] =
          banks_.Read(Token(segment, n / plan_.banks), segment.base, n % plan_.banks);
    }
    __syncthreads();
    if (kErases && segment.pending()) {
      for (int n = warp; n < plan_.commit * plan_.commit; n += warps) {
        Gram(segment.stored, n / plan_.commit, n % plan_.commit);
      }
      __syncthreads();
    }
  }

 private:
  static constexpr int kKept = 8;  // channels of a key that a lane keeps in registers

  __device__ int Token(const Segment& segment, int read) const {
    return segment.first + read / head_.queries();
  }

  __device__ const float* Query(const Segment& segment, int read) const {
    return head_.Query(Token(segment, read), read % head_.queries());
  }

  // Channels as BankedPlan has them. A warp.
  __device__ void Spread(const float* from, float* to) const {
    for (int r = lane_; r < kQuadLanes * plan_.LaneRows(); r += 32) {
      to[plan_.PlaceOf(r)] = r < plan_.dim ? from[r] : 0;
    }
  }

  // s_j = k_j . q_i for the four entries from `first` after the base on. A warp.
  __device__ void ScoreFour(const Segment& segment, int read, int first) const {
    const int last = Token(segment, read) - segment.base;
    if (first > last) {
      return;
    }
    const float* query = Query(segment, read);
    const float* keys[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      keys[n] = head_.Keys(segment.base + Least(first + n, last));
    }
    float sums[4] = {};
#pragma unroll 4
    for (int r = lane_; r < plan_.dim; r += 32) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        sums[n] = fmaf(keys[n][r], query[r], sums[n]);
      }
    }
    const float sum = SumWarpOfFour(sums);
    const int entry = first + lane_ / 8;
    if (lane_ % 8 == 0 && entry <= last) {
      shared_.scores[read * plan_.span + entry] = sum;
    }
  }

  // x <- x - beta_j k_j (k_j . x) for j = i .. base, and s_j = beta_j (k_j . x) on the way. A warp.
  // The next key is loaded before the one before it is through.
  __device__ void LeadBack(const Segment& segment, int read) const {
    const int i = Token(segment, read);
    float* x = shared_.x + read * plan_.KeyStride();
    Spread(Query(segment, read), x);
    float next[kKept];
    const auto load = [&](int j) {
      const float* key = head_.Keys(j);
#pragma unroll
      for (int n = 0; n < kKept; ++n) {
        next[n] = lane_ + 32 * n < plan_.dim ? key[lane_ + 32 * n] : 0;
      }
      return head_.Strength(j);
    };
    float next_strength = load(i);
    for (int j = i; j >= segment.base; --j) {
      float kept[kKept];
#pragma unroll
      for (int n = 0; n < kKept; ++n) {
        kept[n] = next[n];
      }
      const float strength = next_strength;
      if (j > segment.base) {
        next_strength = load(j - 1);
      }
      const float* key = head_.Keys(j);
      const auto for_channels = [&](const auto& visit) {
#pragma unroll
        for (int n = 0; n < kKept; ++n) {
          if (lane_ + 32 * n < plan_.dim) {
            visit(lane_ + 32 * n, kept[n]);
          }
        }
        for (int r = lane_ + 32 * kKept; r < plan_.dim; r += 32) {
          visit(r, key[r]);
        }
      };
      float sum = 0;
      for_channels([&](int r, float k) { sum = fmaf(k, x[plan_.PlaceOf(r)], sum); });
      sum = WarpSum(sum) * strength;
      for_channels([&](int r, float k) {
        float& channel = x[plan_.PlaceOf(r)];
        channel = fmaf(-sum, k, channel);
      });
      if (lane_ == 0) {
        shared_.scores[read * plan_.span + j - segment.base] = sum;
      }
    }
  }

  // Of the block that begins with token `begin`.
  __device__ void PrepareFold(int begin) const {
    const int commit = plan_.commit, last = begin + commit - 1;
    for (int n = thread_; n < commit * plan_.banks; n += threads_) {
      shared_.entry_weights[n] = banks_.Entry(n % plan_.banks, last, begin + n / plan_.banks);
    }
    for (int bank = thread_; bank < plan_.banks; bank += threads_) {
      shared_.decays[bank] = banks_.Decay(bank, last);
    }
    for (int j = thread_; kErases && j < commit; j += threads_) {
      shared_.strengths[j] = head_.Strength(begin + j);
      shared_.scales[j] = -head_.Strength(begin + j) * head_.DecaySinceBlock(begin + j);
    }
  }

  // For i < j, once the keys are there. A warp.
  __device__ void Gram(int begin, int j, int i) const {
    if (i >= j) {
      return;
    }
    const float *key_i = shared_.keys + i * plan_.KeyStride(),
                *key_j = shared_.keys + j * plan_.KeyStride();
    float sum = 0;
    for (int r = lane_; r < plan_.dim; r += 32) {
      sum = fmaf(key_i[plan_.PlaceOf(r)], key_j[plan_.PlaceOf(r)], sum);
    }
    sum = WarpSum(sum);
    if (lane_ == 0) {
      shared_.gram[j * plan_.commit + i] =
          -head_.Strength(begin + j) * head_.DecayBetween(begin + j, begin + i) * sum;
    }
  }

  const BankedPlan& plan_;
  const BankedShared& shared_;
  const HeadView<Memory>& head_;
  const HeadBanks<Memory>& banks_;
  const int thread_, threads_, lane_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_BANKED_PREPARE_CUH_
