// Warps of a block that have the same columns, and what they exchange: see
// kernels/cuda/prefill_pass.cu. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_SPLITS_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_SPLITS_CUH_

#include "kernels/cuda/prefill.cuh"

namespace evenflow {

inline constexpr int kPassColumns = 16;  // of a warp
inline constexpr int kSplits = 4;        // adjacent warps that share keys, and a chunk's tokens
using PassTokens = float[2 * kMmas][4];  // [16 columns, 64 tokens], as products leave them
using OwnTokens = float[2 * kMmas / kSplits][4];  // those of a warp, from 16 split on

// Each part of the room is written again only after a barrier that follows its last read: that of
// the weights' stream or Sync.
template <int kParts>
class WarpSplits {
 public:
  static_assert(kMmas == kSplits);
  static constexpr int kOperands = 2;  // of 64 tokens each, that are there at once
  static constexpr int kSumBytes = kSplits * sizeof(PassTokens) * 32;
  static constexpr int kBytes = kSumBytes + kOperands * kMmas * kParts * kTileBytes;

  // `shared`: kBytes for each group of warps.
  __device__ explicit WarpSplits(std::byte* shared)
      : lane_(static_cast<int>(threadIdx.x) % 32),
        split_(static_cast<int>(threadIdx.x) / 32 % kSplits),
        group_(static_cast<int>(threadIdx.x) / (32 * kSplits)),
        sums_(reinterpret_cast<float4*>(shared + group_ * kBytes)),
        operands_(reinterpret_cast<uint4*>(shared + group_ * kBytes + kSumBytes)) {}

  __device__ int lane() const { return lane_; }

  __device__ int split() const { return split_; }

  __device__ int group() const { return group_; }  // of 16 columns

  __device__ void Sync() const {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + group_), "n"(32 * kSplits) : "memory");
  }

  // Adds up what the warps have of each token, for the one that owns it.
  __device__ void Sum(const PassTokens& tokens, OwnTokens& own) const {
#pragma unroll
    for (int tile = 0; tile < 2 * kMmas; ++tile) {
      const float(&x)[4] = tokens[tile];
      *Part(tile, split_) = make_float4(x[0], x[1], x[2], x[3]);
    }
    Sync();
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      float4 x[kSplits];
#pragma unroll
      for (int s = 0; s < kSplits; ++s) {
        x[s] = *Part(2 * split_ + tile, s);
      }
      own[tile][0] = (x[0].x + x[1].x) + (x[2].x + x[3].x);
      own[tile][1] = (x[0].y + x[1].y) + (x[2].y + x[3].y);
      own[tile][2] = (x[0].z + x[1].z) + (x[2].z + x[3].z);
      own[tile][3] = (x[0].w + x[1].w) + (x[2].w + x[3].w);
    }
  }

  // What the same lanes have.
  __device__ void Sum(HealthPart (&parts)[2]) const {
    auto* const room = reinterpret_cast<HealthPart*>(sums_) + 2 * lane_;
    room[64 * split_] = parts[0];
    room[64 * split_ + 1] = parts[1];
    Sync();
    for (int i = 0; i < 2; ++i) {
      parts[i] = room[i];
      for (int s = 1; s < kSplits; ++s) {
        const HealthPart other = room[64 * s + i];
        parts[i].square += other.square;
        parts[i].max_abs = fmaxf(parts[i].max_abs, other.max_abs);
        parts[i].non_finite += other.non_finite;
      }
    }
  }

  // Shows the warp's tokens to the others, as an operand.
  __device__ void Give(int operand, const MmaA<kParts>& own) const {
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const uint32_t(&x)[4] = own.part[p];
      *Operand(operand, split_, p) = make_uint4(x[0], x[1], x[2], x[3]);
    }
  }

  // The tokens of warp `split`.
  __device__ MmaA<kParts> Take(int operand, int split) const {
    MmaA<kParts> a;
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const uint4 x = *Operand(operand, split, p);
      a.part[p][0] = x.x;
      a.part[p][1] = x.y;
      a.part[p][2] = x.z;
      a.part[p][3] = x.w;
    }
    return a;
  }

 private:
  __device__ float4* Part(int tile, int split) const {
    return sums_ + (kSplits * tile + split) * 32 + lane_;
  }

  __device__ uint4* Operand(int operand, int split, int part) const {
    return operands_ + ((kMmas * operand + split) * kParts + part) * 32 + lane_;
  }

  const int lane_;
  const int split_;
  const int group_;
  float4* const sums_;
  uint4* const operands_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_SPLITS_CUH_
