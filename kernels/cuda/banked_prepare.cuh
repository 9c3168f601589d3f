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

// keys[n] . x; lanes 8 n to 8 n + 7 get the n-th. A warp.
__device__ inline float DotsOfFour(const float* const (&keys)[4], const float* x, int dim) {
  float sums[4] = {};
#pragma unroll 4
  for (int r = static_cast<int>(threadIdx.x) % 32; r < dim; r += 32) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      sums[n] = fmaf(keys[n][r], x[r], sums[n]);
    }
  }
  return SumWarpOfFour(sums);
}

// The banks that hold anything when that many blocks have been taken in, a bit each. A warp.
template <class Banks>
__device__ uint64_t LiveBanks(const BankedPlan& plan, const Banks& banks, int64_t blocks) {
  const auto bits = [&](int first) {
    const int bank = first + static_cast<int>(threadIdx.x) % 32;
    return __ballot_sync(kWarp, bank < plan.banks && banks.Live(bank, blocks));
  };
  return plan.banks > 32 ? uint64_t{bits(32)} << 32 | bits(0) : bits(0);
}

// Fills what BankedShared has of reads. All threads of a block, which waits for them itself.
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

  __device__ void Reads(const Segment& segment) const {
    const int warp = thread_ / 32, warps = threads_ / 32;
    if constexpr (kErases) {
#pragma unroll 1
      for (int read = warp; read < segment.reads; read += warps) {
        if (plan_.dim <= 128) {
          LeadBack<4, 4>(segment, read);
        } else {
          LeadBack<2, 8>(segment, read);
        }
      }
    } else {
#pragma unroll 1
      for (int read = warp; read < segment.reads; read += warps) {
        Spread(Query(segment, read), shared_.x + read * plan_.KeyStride());
      }
      const int groups = (plan_.span + 3) / 4;
#pragma unroll 1
      for (int n = warp; n < segment.reads * groups; n += warps) {
        ScoreFour(segment, n / groups, n % groups * 4);
      }
    }
#pragma unroll 1
    for (int n = thread_; n < segment.reads * plan_.span; n += threads_) {
      const int i = Token(segment, n / plan_.span), j = segment.base + n % plan_.span;
      if (j <= i) {
        shared_.pair_weights[n] = banks_.Pair(i, j);
      }
    }
#pragma unroll 1
    for (int n = threads_ - 1 - thread_; n < segment.reads * plan_.banks; n += threads_) {
      shared_.read_weights[n] =
          banks_.Read(Token(segment, n / plan_.banks), segment.base, n % plan_.banks);
    }
  }

 private:
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
    const float sum = DotsOfFour(keys, query, plan_.dim);
    const int entry = first + lane_ / 8;
    if (lane_ % 8 == 0 && entry <= last) {
      shared_.scores[read * plan_.span + entry] = sum;
    }
  }

  // Keys of kAhead tokens j, j - 1, ..., as far as they lie after the base, and their strengths.
  template <int kAhead, int kKept>
  struct Keys {
    float k[kAhead][kKept];
    float strengths[kAhead];
  };

  template <int kAhead, int kKept>
  __device__ void Load(int j, int base, Keys<kAhead, kKept>* keys) const {
#pragma unroll
    for (int m = 0; m < kAhead; ++m) {
      const int t = j - m < base ? base : j - m;
      const float* key = head_.Keys(t);
#pragma unroll
      for (int n = 0; n < kKept; ++n) {
        keys->k[m][n] = lane_ + 32 * n < plan_.dim ? key[lane_ + 32 * n] : 0;
      }
      keys->strengths[m] = head_.Strength(t);
    }
  }

  // x <- x - beta_j k_j (k_j . x) for j = i .. base, and s_j = beta_j (k_j . x) on the way. A warp.
  // The next kAhead keys are loaded before those before them are through; a lane keeps kKept
  // channels in registers.
  template <int kAhead, int kKept>
  __device__ void LeadBack(const Segment& segment, int read) const {
    const int i = Token(segment, read), base = segment.base;
    const float* query = Query(segment, read);
    float* x = shared_.x + read * plan_.KeyStride();
    Spread(query, x);
    float kept[kKept];
#pragma unroll
    for (int n = 0; n < kKept; ++n) {
      kept[n] = lane_ + 32 * n < plan_.dim ? query[lane_ + 32 * n] : 0;
    }
    using Some = Keys<kAhead, kKept>;
    const auto lead = [&](int first, const Some& keys, Some& next) {
      if (first - kAhead >= base) {
        Load(first - kAhead, base, &next);
      }
#pragma unroll
      for (int m = 0; m < kAhead; ++m) {
        const int j = first - m;
        if (j < base) {
          break;
        }
        float sum = 0;
#pragma unroll
        for (int n = 0; n < kKept; ++n) {
          sum = fmaf(keys.k[m][n], kept[n], sum);
        }
#pragma unroll 1
        for (int r = lane_ + 32 * kKept; r < plan_.dim; r += 32) {
          sum = fmaf(head_.Keys(j)[r], x[plan_.PlaceOf(r)], sum);
        }
        sum = WarpSum(sum) * keys.strengths[m];
#pragma unroll
        for (int n = 0; n < kKept; ++n) {
          kept[n] = fmaf(-sum, keys.k[m][n], kept[n]);
        }
#pragma unroll 1
        for (int r = lane_ + 32 * kKept; r < plan_.dim; r += 32) {
          float& channel = x[plan_.PlaceOf(r)];
          channel = fmaf(-sum, head_.Keys(j)[r], channel);
        }
        if (lane_ == 0) {
          shared_.scores[read * plan_.span + j - base] = sum;
        }
      }
    };
    Some keys[2];
    Load(i, base, &keys[0]);
#pragma unroll 1
    for (int j = i; j >= base; j -= 2 * kAhead) {
      lead(j, keys[0], keys[1]);
      lead(j - kAhead, keys[1], keys[0]);
    }
#pragma unroll
    for (int n = 0; n < kKept; ++n) {
      if (lane_ + 32 * n < plan_.dim) {
        x[plan_.PlaceOf(lane_ + 32 * n)] = kept[n];
      }
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
