// Finding, with all threads of a block and without sorting, where a prefix of some items ends: in
// the order of their keys (FindCut) or of their indices (FindRunning). Masses are integers, so sums
// are exact and no order of adding them matters.
#ifndef EVENFLOW_KERNELS_CUDA_SELECT_CUH_
#define EVENFLOW_KERNELS_CUDA_SELECT_CUH_

#include <cstdint>

#include <cuda_runtime.h>

namespace evenflow {

inline constexpr int kSampleThreads = 1024;
inline constexpr int kSampleWarps = kSampleThreads / 32;

// A thread's part of the block's shared memory.
struct SelectShared {
  unsigned long long histogram[256];
  unsigned long long warps[kSampleWarps];
  unsigned long long base;
  unsigned long long key;
  int index;
};

__device__ inline uint64_t BlockTotal(uint64_t value, SelectShared* shared) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    shared->warps[threadIdx.x / 32] = value;
  }
  __syncthreads();
  uint64_t total = 0;
  for (int warp = 0; warp < kSampleWarps; ++warp) {
    total += shared->warps[warp];
  }
  return total;
}

// The sum of the values of this thread and of those before it.
__device__ inline uint64_t BlockScan(uint64_t value, SelectShared* shared) {
  const unsigned lane = threadIdx.x % 32;
  for (unsigned offset = 1; offset < 32; offset *= 2) {
    const uint64_t before = __shfl_up_sync(0xffffffffu, value, offset);
    value += lane >= offset ? before : 0;
  }
  __syncthreads();
  if (lane == 31) {
    shared->warps[threadIdx.x / 32] = value;
  }
  __syncthreads();
  for (unsigned warp = 0; warp < threadIdx.x / 32; ++warp) {
    value += shared->warps[warp];
  }
  return value;
}

// The first index at which the running sum of mass(i), i in [0, count), is at least `target`; -1 if
// it never is. REQUIRES: target > 0.
template <class Mass>
__device__ int FindRunning(int count, uint64_t target, const Mass& mass, SelectShared* shared) {
  // First the warp's share of the indices in which it happens, then the tile of that share.
  const int share = (count + kSampleWarps - 1) / kSampleWarps;
  const int warp = static_cast<int>(threadIdx.x / 32);
  uint64_t sum = 0;
#pragma unroll 8
  for (int i = warp * share + static_cast<int>(threadIdx.x % 32);
       i < min(count, (warp + 1) * share); i += 32) {
    sum += mass(i);
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    shared->warps[warp] = sum;
  }
  __syncthreads();
  uint64_t base = 0;
  int found = 0;
  while (found < kSampleWarps && base + shared->warps[found] < target) {
    base += shared->warps[found];
    ++found;
  }
  if (found == kSampleWarps) {
    return -1;
  }
  const int end = min(count, (found + 1) * share);
  for (int begin = found * share; begin < end; begin += kSampleThreads) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const uint64_t own = i < end ? mass(i) : 0;
    const uint64_t running = base + BlockScan(own, shared);
    if (running >= target && running - own < target) {
      shared->index = i;
    }
    if (threadIdx.x == kSampleThreads - 1) {
      shared->base = running;
    }
    __syncthreads();
    base = shared->base;
    const int index = shared->index;
    __syncthreads();
    if (base >= target) {
      return index;
    }
  }
  return -1;
}

// Where a prefix in the order of (key, index) ends.
struct Cut {
  uint64_t key = ~uint64_t{0};
  int index = 0x7fffffff;

  __device__ bool Keeps(uint64_t other, int i) const {
    return other < key || (other == key && i <= index);
  }
};

// The shortest prefix with at least `target` of mass; all where there is less. key(i) has `bits`
// bits; items of no mass are not counted. REQUIRES: target > 0.
template <class Key, class Mass>
__device__ Cut FindCut(int count, int bits, uint64_t target, const Key& key, const Mass& mass,
                       SelectShared* shared) {
  uint64_t prefix = 0, mask = 0, below = 0;
  for (int shift = bits - 8; shift >= 0; shift -= 8) {
    __syncthreads();
    if (threadIdx.x < 256) {
      shared->histogram[threadIdx.x] = 0;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kSampleThreads) {
      const uint64_t own = mass(i);
      if (own > 0) {
        const uint64_t k = key(i);
        if ((k & mask) == prefix) {
          atomicAdd(&shared->histogram[k >> shift & 255], static_cast<unsigned long long>(own));
        }
      }
    }
    __syncthreads();
    const uint64_t own = threadIdx.x < 256 ? shared->histogram[threadIdx.x] : 0;
    const uint64_t running = below + BlockScan(own, shared);
    if (threadIdx.x < 256 && running >= target && running - own < target) {
      shared->key = prefix | uint64_t{threadIdx.x} << shift;
      shared->base = running - own;
    }
    if (threadIdx.x == 255) {
      shared->index = running >= target;
    }
    __syncthreads();
    if (shared->index == 0) {
      return {};
    }
    prefix = shared->key;
    below = shared->base;
    mask |= uint64_t{255} << shift;
  }
  const auto tied = [&](int i) {
    const uint64_t own = mass(i);
    return own > 0 && key(i) == prefix ? own : 0;
  };
  __syncthreads();
  return {prefix, FindRunning(count, target - below, tied, shared)};
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_SELECT_CUH_
