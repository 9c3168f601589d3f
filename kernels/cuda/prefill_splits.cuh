// Warps of a block that have the same columns, and what they exchange: see
// kernels/cuda/prefill_pass.cu. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_SPLITS_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_SPLITS_CUH_

#include <algorithm>

#include "kernels/cuda/prefill_pass_room.cuh"

namespace evenflow {

inline constexpr int kSplits = kReaders;  // adjacent warps that share keys, and a chunk's tokens

// What the warps show each other, as operands of products: the state, by keys, and a chunk's
// tokens. Each part of the room is written again only after a Sync that follows its last read.
template <int kKeys, int kParts>
class WarpSplits {
 public:
  static_assert(kMmas == kSplits);
  static constexpr int kRooms = kParts == kFastParts ? 2 : 1;  // for a state, and for 64 tokens

  // `shared`: kBytes for each group of warps.
  __device__ explicit WarpSplits(std::byte* shared)
      : lane_(static_cast<int>(threadIdx.x) % 32),
        split_(static_cast<int>(threadIdx.x) / 32 % kSplits),
        group_(static_cast<int>(threadIdx.x) / (32 * kSplits)),
        state_(reinterpret_cast<uint4*>(shared + group_ * kBytes)),
        tokens_(reinterpret_cast<uint4*>(shared + group_ * kBytes + kStateBytes)) {}

  __device__ int lane() const { return lane_; }

  __device__ int split() const { return split_; }

  __device__ int group() const { return group_; }  // of 16 columns

  __device__ void Sync() const {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + group_), "n"(32 * kSplits) : "memory");
  }

  // Adds up what the same lanes of all warps have; in a state's room.
  __device__ void Sum(HealthPart (&parts)[2]) const {
    Sync();
    auto* const room = reinterpret_cast<HealthPart*>(state_) + 2 * lane_;
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
    Sync();
  }

  // Shows the others the state of keys [16 slab, 16 slab + 16).
  __device__ void GiveState(int room, int slab, const MmaA<kParts>& keys) const {
    Put(state_, kSlabs * room + slab, keys);
  }

  __device__ MmaA<kParts> TakeState(int room, int slab) const {
    return Get(state_, kSlabs * room + slab);
  }

  // Shows the others the warp's tokens.
  __device__ void Give(int room, const MmaA<kParts>& own) const {
    Put(tokens_, kSplits * room + split_, own);
  }

  // The tokens of warp `split`.
  __device__ MmaA<kParts> Take(int room, int split) const {
    return Get(tokens_, kSplits * room + split);
  }

 private:
  static constexpr int kSlabs = kKeys / kMma;
  static constexpr int kHealthBytes = kSplits * 2 * 32 * static_cast<int>(sizeof(HealthPart));
  static constexpr int kStateBytes = std::max(kRooms * kSlabs * kParts * kTileBytes, kHealthBytes);

 public:
  static constexpr int kBytes = kStateBytes + kRooms * kSplits * kParts * kTileBytes;

 private:
  __device__ void Put(uint4* room, int index, const MmaA<kParts>& a) const {
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const uint32_t(&x)[4] = a.part[p];
      room[(index * kParts + p) * 32 + lane_] = make_uint4(x[0], x[1], x[2], x[3]);
    }
  }

  __device__ MmaA<kParts> Get(const uint4* room, int index) const {
    MmaA<kParts> a;
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const uint4 x = room[(index * kParts + p) * 32 + lane_];
      a.part[p][0] = x.x;
      a.part[p][1] = x.y;
      a.part[p][2] = x.z;
      a.part[p][3] = x.w;
    }
    return a;
  }

  const int lane_;
  const int split_;
  const int group_;
  uint4* const state_;   // [room, slab, part, lane]
  uint4* const tokens_;  // [room, split, part, lane]
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_SPLITS_CUH_
