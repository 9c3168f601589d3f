// How the decode kernel's work is cut, and what lies where in a block's shared memory.
//
// A block is a row's head and up to kWarps adjacent tiles of columns, one a warp. It lives
// only as long as its work: that several blocks share a multiprocessor keeps its loads coming.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_PLAN_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_PLAN_CUH_

#include <cstdint>

#include "kernels/cuda/advance.cuh"
#include "kernels/cuda/async_copy.cuh"

namespace evenflow {

inline constexpr int kMaxRing = 64;
inline constexpr int kMaxDecodeTokens = 15;  // of a row: more are a prompt
inline constexpr int kMaxDecodeRows = 65535;

// Division by a number that the host knows: exact for 0 <= n < 2^58 / divisor.
struct Divider {
  uint64_t magic = 0;  // 0: by 1
  int divisor = 1;

  Divider() = default;

  explicit Divider(int by) : magic(by == 1 ? 0 : ~uint64_t{0} / by + 1), divisor(by) {}

  __device__ int64_t Divide(int64_t n) const {
    return magic == 0 ? n : static_cast<int64_t>(__umul64hi(static_cast<uint64_t>(n), magic));
  }

  __device__ int Remainder(int64_t n) const {
    return static_cast<int>(n - Divide(n) * int64_t{divisor});
  }
};

// The same for n, divisor < 2^16.
struct SmallDivider {
  uint32_t magic = 0;

  SmallDivider() = default;

  explicit SmallDivider(int by) : magic(by == 1 ? 0 : ~uint32_t{0} / by + 1) {}

  __device__ uint32_t Divide(uint32_t n) const { return magic == 0 ? n : __umulhi(n, magic); }
};

struct DecodePlan {
  Divider commit, ring;
  SmallDivider heads_a_query, heads_a_key, heads_a_value;
  uint32_t* stored = nullptr;                   // device [row], zeros: tiles that are stored
  bool states_once = false, keys_once = false;  // see CopyBarrier::Copy
  // Operations that are left to the kernel, see BesideAdvance.
  bool prepares = false, finishes = false;
  MemoryInputsArgs inputs;
  const double* frequencies = nullptr;  // device [key_dim / 2]; nullptr: no rotary
  MemoryOutputArgs output;
  LeftFactors left;  // by the output
};

// The second cache gives up states before what a step brings and writes, and keys, too, where few
// blocks share them. Beyond so many bytes of a step that does not pay. Measured on an H100, whose
// second cache has 50 MB.
inline constexpr int64_t kFewStepBytes = int64_t{10} << 20;
inline constexpr int kFewBlocksOfHead = 2;

// What a token brings can be prepared in the kernel where it has one entry and no other keys.
template <class Memory>
inline constexpr bool kPreparable = kEntryCount<Memory> == 1 && OwnKeys<Memory>() == 0;

// Of the decode kernel: fixed when it is compiled.
template <class M, class S, int kDim>
struct DecodeShape {
  using Memory = M;
  using State = S;
  using T = Traits<M>;
  static constexpr int kKeyDim = kDim;
  static constexpr int kRows = kDim / kQuadLanes;  // of a state, for each lane

  // Measured on an H100, see kernels/cuda/README.md. Warps of a block: small tiles beside a large
  // window are many, as the window comes once a block. Blocks of a multiprocessor for which
  // registers suffice: of states of two bytes more are needed to have as many bytes on the way.
  static constexpr int kWarps =
      (sizeof(S) == 2 && kDim == 256 && T::kChannels) || (T::kEntries == 2 && kDim > 64) ? 8 : 4;
  static constexpr int kBlocks = kWarps == 8 ? 2 : sizeof(S) == 2 && kDim < 256 ? 6 : 4;
  static constexpr int kBlocksOfFew = kWarps == 8 ? 2 : 4;  // with a few tokens a row
  static constexpr int kThreads = 32 * kWarps;

  // Where a quad's lanes find what they read with: lane i rows i, i + 8, ... side by side, apart
  // enough that 16-byte accesses of 8 lanes meet no bank twice.
  static constexpr int kLaneStride = kRows + 4;

  __device__ static int LaneIndex(int row) {
    return row % kQuadLanes * kLaneStride + row / kQuadLanes;
  }

  // A token's vectors [key_dim]: its query, the keys that it writes, its own keys to erase.
  static constexpr int kVectors = 1 + T::kEntries + T::kOwnKeys;

  // Which of them a read is with; see Traits::kReads.
  __device__ static constexpr int VectorOf(int read) {
    int own = 0;
    for (int n = 0; n < T::kEntries && read > 0; ++n) {
      const bool erases_own = (T::kErasesOwn >> n & 1) != 0;
      if ((T::kErasing >> n & 1) != 0 && --read == 0) {
        return 1 + (erases_own ? T::kEntries + own : n);
      }
      own += erases_own ? 1 : 0;
    }
    return 0;
  }
};

// Calls visit(r) for this thread's part of the key_dim rows.
template <class Shape, class Visit>
__device__ inline void ForKeyRows(const Visit& visit) {
  constexpr int kDim = Shape::kKeyDim, kThreads = Shape::kThreads;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < (kDim + kThreads - 1) / kThreads; ++i) {
    if (kDim % kThreads == 0 || thread + kThreads * i < kDim) {
      visit(thread + kThreads * i);
    }
  }
}

// At the beginning of a block's shared memory. Keys of the ring [ring, entries, key_dim] follow, by
// channels log decays [ring, key_dim], then for each warp a tile of the state, as in the slot.
template <class Shape>
struct alignas(128) DecodeShared {
  using T = typename Shape::T;
  static constexpr int kDim = Shape::kKeyDim;
  static constexpr int kChannelDim = T::kChannels ? kDim : 1;

  CopyBarrier entries_here;
  CopyBarrier tile_here[Shape::kWarps];

  union {
    float weights[T::kReads][kMaxRing * T::kEntries];  // of entries in what is read
    // Before them: cosines and sines of the token's position.
    float2 rotation[kPreparable<typename Shape::Memory> ? kDim / 2 : 1];
  };

  float scalar_logs[kMaxRing];
  float vectors[Shape::kVectors][kDim];  // of the token
  float log[kChannelDim];                // its log decay since the block's start
  float fold_decay[kChannelDim];         // of the pending block
  // What the token reads with, by channels decayed since the block's start.
  alignas(16) float reads[T::kReads][kQuadLanes * Shape::kLaneStride];
  float squares[Shape::kWarps];  // of the tiles' outputs

  static constexpr int kTileBytes = kDim * kTile * static_cast<int>(sizeof(typename Shape::State));

  __host__ __device__ static int EntryBytes(int ring) {
    return 4 * kDim * ring * (T::kEntries + (T::kChannels ? 1 : 0));
  }

  __host__ __device__ static int Bytes(int ring) {
    return static_cast<int>(sizeof(DecodeShared)) + EntryBytes(ring) + Shape::kWarps * kTileBytes;
  }

  // One element of the token's vectors, which by channels are not yet what the state is read with.
  __device__ void SetVector(int vector, int row, float x) {
    vectors[vector][row] = x;
    if constexpr (!T::kChannels) {
#pragma unroll
      for (int read = 0; read < T::kReads; ++read) {
        if (Shape::VectorOf(read) == vector) {
          reads[read][Shape::LaneIndex(row)] = x;
        }
      }
    }
  }

  __device__ float* Keys() {
    return reinterpret_cast<float*>(this + 1);
  }

  __device__ float* Logs(int ring) {
    return Keys() + ring * T::kEntries * kDim;
  }

  __device__ char* Tile(int ring, int warp) {
    return reinterpret_cast<char*>(this + 1) + EntryBytes(ring) + warp * kTileBytes;
  }
};

// Calls visit.template operator()<Shape>() with a layer's DecodeShape, if there is one.
template <class State, class Visit>
void VisitDecodeShape(const AdvanceArgs& args, const Visit& visit) {
  VisitMemory(args.memory, [&]<class Memory>() {
    if constexpr (!Banked<Memory>) {
      switch (args.shape.key_dim) {
        case 64:
          return visit.template operator()<DecodeShape<Memory, State, 64>>();
        case 128:
          return visit.template operator()<DecodeShape<Memory, State, 128>>();
        case 256:
          return visit.template operator()<DecodeShape<Memory, State, 256>>();
      }
    }
  });
}

// Whether the decode kernel takes the layer: what is copied in bulk must be aligned, there may be
// one block at most to be folded, none of whose entries has the place of the token's (another block
// may still have to load it), and a block must fit into a multiprocessor's shared memory.
bool DecodeSupports(const AdvanceArgs& args, int rows);

// Rows that the call takes, of layers that it supports: of one token, or of a few.
void DecodeF32(const AdvanceCall& call, const BesideAdvance& beside, const CudaStep& step);
void DecodeBF16(const AdvanceCall& call, const BesideAdvance& beside, const CudaStep& step);
void DecodeFewF32(const AdvanceCall& call, const CudaStep& step);
void DecodeFewBF16(const AdvanceCall& call, const CudaStep& step);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_PLAN_CUH_
