// A layer's Advance as its kernels get it, and what they share. For .cu files; see
// kernels/cuda/README.md.
#ifndef EVENFLOW_KERNELS_CUDA_ADVANCE_CUH_
#define EVENFLOW_KERNELS_CUDA_ADVANCE_CUH_

#include <bit>
#include <climits>
#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quad.cuh"
#include "kernels/cuda/step.h"

namespace evenflow {

// One layer of one step, as kernels get it.
struct AdvanceCall {
  AdvanceArgs args;
  MemoryLayout layout;
  const Row* rows = nullptr;      // device
  StateHealth* health = nullptr;  // device, [row]
  HealthPart* parts = nullptr;    // device, [row, head, quad]: of what was stored
  float* logs = nullptr;          // device, [token, heads (, key_dim)]: cumulative since the block
  int min_tokens = 1;             // rows with fewer, or with as many as end_tokens, are left to
  int end_tokens = INT_MAX;       // other kernels

  __host__ __device__ bool Takes(const Row& row) const {
    return row.tokens >= min_tokens && row.tokens < end_tokens;
  }

  __device__ std::byte* Layer(const Row& row) const {
    return args.slots.base + static_cast<size_t>(row.slot) * args.slots.slot_bytes +
           args.layer_offset;
  }

  // The word of the slot that says how many tokens are in the stored state.
  __device__ int64_t* StoredWord(const Row& row) const {
    return reinterpret_cast<int64_t*>(Layer(row) + layout.committed_tokens);
  }

  __device__ int64_t Stored(const Row& row) const {
    return row.position == 0 ? 0 : *StoredWord(row);
  }

  // A row's part of `parts`.
  __device__ HealthPart* Parts(unsigned row_index) const {
    return parts + int64_t{row_index} * args.shape.heads * Quads(args.shape.value_dim);
  }

  __device__ int64_t StoredAfter(const Row& row, int64_t stored) const {
    const int64_t after = args.window.Stored(row.position + row.tokens - 1);
    return after > stored ? after : stored;
  }
};

// Memories whose prompts are read in chunks: with one state a head.
template <class Memory>
concept InChunks = !Banked<Memory>;

// A bit for each entry of a memory that `is`.
template <class Memory, class Is>
constexpr uint32_t EntryBits(Is is) {
  uint32_t bits = 0;
  for (int n = 0; n < kEntryCount<Memory>; ++n) {
    bits |= (is(Memory::kEntries[n]) ? 1u : 0u) << n;
  }
  return bits;
}

template <class Memory>
struct Traits {
  static constexpr int kEntries = kEntryCount<Memory>;
  // Device code cannot index Memory::kEntries at run time.
  static constexpr uint32_t kErasing =
      EntryBits<Memory>([](const Entry& entry) { return entry.erase != Erase::kNothing; });
  static constexpr uint32_t kErasesOwn =
      EntryBits<Memory>([](const Entry& entry) { return entry.erase == Erase::kOwnKey; });
  static constexpr uint32_t kWriting =
      EntryBits<Memory>([](const Entry& entry) { return entry.writes_value; });
  static constexpr int kOwnKeys = OwnKeys<Memory>();
  static constexpr bool kErases = kErasing != 0;
  // What a token reads with: its query, and for each entry that erases the key that is erased.
  static constexpr int kReads = 1 + std::popcount(kErasing);
  static constexpr bool kChannels = Memory::kDecay == Decay::kChannel;
  static constexpr bool kLogs = Memory::kDecay == Decay::kScalar || kChannels;
};

template <class Memory>
__host__ __device__ int LogDim(const MemoryShape& shape) {
  return Traits<Memory>::kChannels ? shape.key_dim : 1;
}

// A token's own log decay, bounded below. NaN stays.
__device__ inline float ClampLog(float log) {
  return log < kMinLogDecay ? kMinLogDecay : log;
}

// Past the first cache: another multiprocessor may have written it in this kernel.
__device__ inline HealthPart LoadPart(const HealthPart* part) {
  return {__ldcg(&part->square), __ldcg(&part->max_abs), __ldcg(&part->non_finite)};
}

// A warp, once all of a row has been read: writes that its stored state holds `stored` tokens and,
// where that is news, its health, the sum of `parts` parts; else `parts` is 0.
__device__ inline void FinishRow(const AdvanceCall& call, int row_index, const Row& row,
                                 int64_t stored, int parts) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  double square = 0;
  HealthPart sum;
#pragma unroll 8
  for (int i = lane; i < parts; i += 32) {
    const HealthPart part = LoadPart(call.Parts(static_cast<unsigned>(row_index)) + i);
    square += static_cast<double>(part.square);
    sum.max_abs = fmaxf(sum.max_abs, part.max_abs);
    sum.non_finite += part.non_finite;
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    square += __shfl_xor_sync(kWarp, square, offset);
  }
  sum.SumLanes(32);
  if (lane == 0) {
    *call.StoredWord(row) = stored;
    if (parts > 0) {
      call.health[row_index] = {true, static_cast<float>(sqrt(square)), sum.max_abs,
                                sum.non_finite};
    }
  }
}

// A warp, once it has stored part `part` of `parts` of the row in blockIdx.z, up to token `stored`;
// every warp that reads how much is stored has by then. The last one finishes the row and leaves
// `count`, which they share, at zero.
__device__ inline void CountPart(const AdvanceCall& call, const Row& row, int part, int parts,
                                 uint32_t* count, int64_t stored, HealthPart health) {
  health.SumLanes(32);
  uint32_t before = 0;
  const bool first = threadIdx.x % 32 == 0;
  if (first) {
    call.Parts(blockIdx.z)[part] = health;
    __threadfence();
    before = atomicAdd(count, 1);
  }
  before = __shfl_sync(kWarp, before, 0);
  if (before + 1 == static_cast<uint32_t>(parts)) {
    __threadfence();
    FinishRow(call, static_cast<int>(blockIdx.z), row, stored, parts);
    if (first) {
      *count = 0;
    }
  }
}

// Calls visit.template operator()<Memory>() with the memory, if its prompts are read in chunks.
template <class Visitor>
void VisitInChunks(MemoryKind kind, Visitor&& visit) {
  VisitMemory(kind, [&]<class Memory>() {
    if constexpr (InChunks<Memory>) {
      visit.template operator()<Memory>();
    }
  });
}

// Rows that the call takes, of memories with one state a head.
void AdvanceAnyShape(const AdvanceCall& call, const CudaStep& step);

// Rows of many tokens in chunks on tensor cores, in a step of such rows and others.
class Prompts {
 public:
  // None where the shape or the window is not served so.
  Prompts(const AdvanceArgs& args, const CudaStep& step);

  bool any() const { return bytes_ > 0; }

  // Rows with fewer tokens are not read so.
  int min_tokens() const;

  size_t scratch_bytes() const { return bytes_; }

  // Enqueues those that the call takes; `scratch` is the operation's.
  void Advance(const AdvanceCall& call, std::byte* scratch) const;

 private:
  const CudaStep& step_;
  size_t bytes_ = 0;  // of the largest launch
};

// Bytes of shared memory that a block of it needs at least. REQUIRES: args.shape.
size_t LeastSharedOfAnyShape(const AdvanceArgs& args);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_ADVANCE_CUH_
