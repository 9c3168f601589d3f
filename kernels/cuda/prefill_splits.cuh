// Warps of a block that have the same columns and share the keys, and what they add up: see
// kernels/cuda/prefill_pass.cu. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_SPLITS_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_SPLITS_CUH_

#include "kernels/cuda/prefill.cuh"

namespace evenflow {

inline constexpr int kPassColumns = 16;  // of a warp
using PassTokens = float[2 * kMmas][4];  // [16 columns, 64 tokens], as products leave them

// kSplits: 1 or 2 adjacent warps.
template <int kSplits>
class WarpSplits {
 public:
  static constexpr int kBytes = 2 * kChunk * kPassColumns * static_cast<int>(sizeof(float));

  // `shared`: kBytes for each of the block's warps.
  __device__ explicit WarpSplits(std::byte* shared)
      : lane_(static_cast<int>(threadIdx.x) % 32),
        split_(static_cast<int>(threadIdx.x) / 32 % kSplits),
        group_(static_cast<int>(threadIdx.x) / (32 * kSplits)),
        rooms_(reinterpret_cast<float4*>(shared + group_ * kSplits * kBytes)) {}

  __device__ int lane() const { return lane_; }

  __device__ int split() const { return split_; }

  __device__ int group() const { return group_; }  // of 16 columns

  // Whether this warp writes what those 8 tokens read.
  __device__ bool IsOwn(int tile) const { return tile * kSplits / (2 * kMmas) == split_; }

  // Room of this warp for 64 tokens, until the next sum.
  __device__ float4* Room() const { return RoomOf(split_); }

  // Adds what the other warp has: of all tokens, or of those that are this warp's.
  template <bool kAll>
  __device__ void Sum(PassTokens& tokens) {
    if constexpr (kSplits > 1) {
      float4* const own = Room() + lane_;
#pragma unroll
      for (int tile = 0; tile < 2 * kMmas; ++tile) {
        if (kAll || !IsOwn(tile)) {
          const float(&x)[4] = tokens[tile];
          own[32 * tile] = make_float4(x[0], x[1], x[2], x[3]);
        }
      }
      Sync();
      const float4* const other = RoomOf(split_ ^ 1) + lane_;
#pragma unroll
      for (int tile = 0; tile < 2 * kMmas; ++tile) {
        if (kAll || IsOwn(tile)) {
          const float4 x = other[32 * tile];
          tokens[tile][0] += x.x;
          tokens[tile][1] += x.y;
          tokens[tile][2] += x.z;
          tokens[tile][3] += x.w;
        }
      }
      turn_ ^= 1;
    }
  }

  // The same lane's of both.
  __device__ void Sum(HealthPart& part) {
    if constexpr (kSplits > 1) {
      reinterpret_cast<HealthPart*>(Room())[lane_] = part;
      Sync();
      const HealthPart other = reinterpret_cast<const HealthPart*>(RoomOf(split_ ^ 1))[lane_];
      part.square += other.square;
      part.max_abs = fmaxf(part.max_abs, other.max_abs);
      part.non_finite += other.non_finite;
      turn_ ^= 1;
    }
  }

 private:
  // Rooms take turns: once both have come to a sum, both are done with the one before.
  __device__ float4* RoomOf(int split) const {
    return rooms_ + (split * 2 + turn_) * (kChunk * kPassColumns / 4);
  }

  __device__ void Sync() const {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + group_), "n"(32 * kSplits) : "memory");
  }

  const int lane_;
  const int split_;
  const int group_;
  float4* const rooms_;
  int turn_ = 0;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_SPLITS_CUH_
