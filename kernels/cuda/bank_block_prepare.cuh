// What a block of threads needs before it takes a block of positions into banks (bank_block.cuh
// has the formulas): no columns are needed for it. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_BANK_BLOCK_PREPARE_CUH_
#define EVENFLOW_KERNELS_CUDA_BANK_BLOCK_PREPARE_CUH_

#include "kernels/cuda/banked_prepare.cuh"
#include "kernels/cuda/mma_tf32.cuh"

namespace evenflow {

// Fills what BankedShared has of the block that waits but for values, erased and the tile. All
// threads of a block.
template <class Memory>
class BankBlockPrepare {
 public:
  static constexpr bool kErases = Traits<Memory>::kErases;

  __device__ BankBlockPrepare(const BankedPlan& plan, const BankedShared& shared,
                              const HeadView<Memory>& head, const HeadBanks<Memory>& banks)
      : plan_(plan),
        shared_(shared),
        head_(head),
        banks_(banks),
        thread_(static_cast<int>(threadIdx.x)),
        threads_(static_cast<int>(blockDim.x)),
        lane_(thread_ % 32) {}

  // Of the block that begins with token `begin`.
  __device__ void Run(int begin) const {
    Fill(begin);
    __syncthreads();
    if constexpr (kErases) {
      if (thread_ < 32) {
        Invert();
      }
      __syncthreads();
      LeadKeys();
      __syncthreads();
    }
  }

 private:
  // All but what depends on the triangle of entries that erase.
  __device__ void Fill(int begin) const {
    const int commit = plan_.commit, last = begin + commit - 1;
#pragma unroll 4
    for (int n = thread_; n < plan_.Groups() * plan_.OperandFloats() / 4; n += threads_) {
      const int octet = n / 32 % plan_.LaneRows();
      const int r = octet * 8 + n % 32 / 4, first = n / 32 / plan_.LaneRows() * kGroup + n % 4 * 2;
      float k[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = first + i / 2 * 8 + i % 2;
        k[i] = j < commit && r < plan_.dim ? RoundToParts(head_.Keys(begin + j)[r]) : 0;
      }
      shared_.keys[n] = make_float4(k[0], k[1], k[2], k[3]);
    }
#pragma unroll 1
    for (int n = thread_; n < commit * plan_.banks; n += threads_) {
      shared_.entry_weights[n] = banks_.Entry(n % plan_.banks, last, begin + n / plan_.banks);
    }
#pragma unroll 1
    for (int bank = thread_; bank < plan_.banks; bank += threads_) {
      shared_.decays[bank] = banks_.Decay(bank, last);
    }
    if constexpr (kErases) {
#pragma unroll 1
      for (int j = thread_; j < commit; j += threads_) {
        shared_.strengths[j] = head_.Strength(begin + j);
        shared_.growths[j] = -head_.DecaySinceBlock(begin + j);
      }
      const int fours = (commit + 3) / 4;
#pragma unroll 4
      for (int n = thread_ / 32; n < commit * fours; n += threads_ / 32) {
        GramOfFour(begin, n / fours, n % fours * 4);
      }
    }
  }

  // For the four i from `first` on that are less than j. A warp.
  __device__ void GramOfFour(int begin, int j, int first) const {
    if (first >= j) {
      return;
    }
    const float* key = head_.Keys(begin + j);
    const float* keys[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      keys[n] = head_.Keys(begin + Least(first + n, j - 1));
    }
    const float sum = DotsOfFour(keys, key, plan_.dim);
    const int i = first + lane_ / 8;
    if (lane_ % 8 == 0 && i < j) {
      shared_.gram[j * plan_.commit + i] =
          -head_.Strength(begin + j) * head_.DecayBetween(begin + j, begin + i) * sum;
    }
  }

  // T = (1 - gram)^-1 diag(beta), with zeros up to a multiple of a group. A warp; a lane has
  // columns.
  __device__ void Invert() const {
    const int entries = plan_.Groups() * kGroup, stride = entries + 1;
#pragma unroll 1
    for (int i = lane_; i < entries; i += 32) {
      float* const column = shared_.inverse + i;
      for (int j = 0; j < entries; ++j) {
        float sum = j == i && j < plan_.commit ? shared_.strengths[j] : 0;
        for (int m = i; m < j && j < plan_.commit; ++m) {
          sum = fmaf(shared_.gram[j * plan_.commit + m], column[m * stride], sum);
        }
        column[j * stride] = sum;
      }
    }
  }

  // k'_j = -sum_i T_ji e^{l_i} k_i. All threads.
  __device__ void LeadKeys() const {
    const int stride = plan_.Groups() * kGroup + 1, rows = plan_.LaneRows();
#pragma unroll 1
    for (int n = thread_; n < plan_.Groups() * plan_.OperandFloats() / 4; n += threads_) {
      const int octet = n / 32 % rows, t = n % 4;
      const int j = n / 32 / rows * kGroup + n % 32 / 4;
      const float *const low = shared_.inverse + j * stride, *const high = low + 8 * stride;
      float4 sum = make_float4(0, 0, 0, 0);
      // Keys lie so that a float4 has channel r of entries 2 m, 2 m + 1, 2 m + 8 and 2 m + 9.
      const float4* const keys = shared_.keys + octet * 32 + 8 * t;
#pragma unroll 2
      for (int m = 0; m < plan_.Groups() * 4; ++m) {
        const float4* const of = keys + m / 4 * rows * 32 + m % 4;
        const float4 k0 = of[0], k1 = of[4];
        const int first = m / 4 * kGroup + m % 4 * 2;
        const auto add = [&](int i, float r0, float r1) {
          const float growth = i < plan_.commit ? shared_.growths[i] : 0;
          const float w0 = low[i] * growth, w1 = high[i] * growth;
          sum.x = fmaf(w0, r0, sum.x);
          sum.y = fmaf(w0, r1, sum.y);
          sum.z = fmaf(w1, r0, sum.z);
          sum.w = fmaf(w1, r1, sum.w);
        };
        add(first, k0.x, k1.x);
        add(first + 1, k0.y, k1.y);
        add(first + 8, k0.z, k1.z);
        add(first + 9, k0.w, k1.w);
      }
      shared_.erasing[n] = make_float4(RoundToParts(sum.x), RoundToParts(sum.y),
                                       RoundToParts(sum.z), RoundToParts(sum.w));
    }
  }

  const BankedPlan& plan_;
  const BankedShared& shared_;
  const HeadView<Memory>& head_;
  const HeadBanks<Memory>& banks_;
  const int thread_, threads_, lane_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_BANK_BLOCK_PREPARE_CUH_
