// Queries and keys of a chunk's entries, 64 channels at a time. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_SLICES_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_SLICES_CUH_

#include "kernels/cuda/prefill_logs.cuh"

namespace evenflow {

struct alignas(16) Slice {
  float x[kChunk][kStride];  // [entry, key]

  // Of keys k and k + 1; k is even.
  __device__ float2 Pair(int n, int k) const { return *reinterpret_cast<const float2*>(&x[n][k]); }
};

template <bool kOwnKeys>
struct Slices {
  Slice queries, keys;

  __device__ const Slice& Erased() const { return keys; }
};

template <>
struct Slices<true> {
  Slice queries, keys, erased;

  __device__ const Slice& Erased() const { return erased; }
};

template <class Memory>
class EntriesOfChunk {
 public:
  using T = Traits<Memory>;

  __device__ EntriesOfChunk(const HeadView<Memory>& view, int key_dim, const Chunks& chunks,
                            int chunk)
      : view_(view),
        dim_(key_dim),
        begin_(chunks.begin(chunk)),
        count_(T::kEntries * (chunks.end(chunk) - begin_)) {}

  // The distance of an entry's token from the row's first.
  __device__ int TokenOf(int n) const { return begin_ + n / T::kEntries; }

  // Begins to copy keys from `first` on; zeros where an entry has none. All threads of the block.
  __device__ void Fetch(int query, int first, bool wide, Slices<T::kOwnKeys != 0>* to) const {
    const auto fetch = [&](int from, uint32_t entries, const auto& of, Slice& slice) {
      for (int p = static_cast<int>(threadIdx.x); p < kChunk * kSlice / 4; p += kWeighThreads) {
        const int n = p / (kSlice / 4), k = p % (kSlice / 4) * 4;
        const int t = TokenOf(n), entry = EntryOf(n);
        const bool there = n < count_ && t >= from && (entries >> entry & 1) != 0;
        const int count = there ? dim_ - first - k : 0;
        const float* const data = there ? of(t, entry) : view_.Query(0, 0);
        CopyFour(&slice.x[n][k], data + (count > 0 ? first + k : 0), count, wide);
      }
    };
    fetch(
        0, 1u << (T::kEntries - 1), [&](int t, int /*entry*/) { return view_.Query(t, query); },
        to->queries);
    fetch(
        begin_, ~0u, [&](int t, int entry) { return view_.Key(t, entry); }, to->keys);
    if constexpr (T::kOwnKeys != 0) {
      fetch(
          0, T::kErasing, [&](int t, int entry) { return view_.ErasedKey(t, entry); }, to->erased);
    }
  }

  // Likewise; that of an entry whose u is known is 1.
  __device__ void FetchBeta(float (&beta)[kChunk]) const {
    constexpr int kLanes = ScalesByKey<Memory> ? 32 : 1;  // that have an entry together
    for (int n = static_cast<int>(threadIdx.x) / kLanes; n < kChunk; n += kWeighThreads / kLanes) {
      const int t = TokenOf(n);
      const bool is_one = t < 0 || (T::kWriting >> EntryOf(n) & 1) == 0;
      beta[n] = n >= count_ ? 0.0f : is_one ? 1.0f : view_.Beta(t);
    }
  }

 private:
  static __device__ int EntryOf(int n) { return n % T::kEntries; }

  const HeadView<Memory> view_;
  const int dim_;
  const int begin_;  // in distances from the row's first token
  const int count_;  // entries
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_SLICES_CUH_
