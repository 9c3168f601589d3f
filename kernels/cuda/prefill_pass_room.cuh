// The shared memory of a block that takes rows from chunk to chunk (kernels/cuda/prefill_pass.cu):
// what is copied there, and who has it. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_PASS_ROOM_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_PASS_ROOM_CUH_

#include <algorithm>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/prefill.cuh"

namespace evenflow {

inline constexpr int kPassColumns = 16;  // of a warp
inline constexpr int kReaders = 4;       // warps that share columns
inline constexpr int kValueCopiers = 2;  // warps
inline constexpr int kCopyWarps = 1 + kValueCopiers;

// A block's shared memory. Weights come step by step: a step brings the stages of kSlices slices of
// 64 keys, as WeightLayout has them, the last of kSteps for a read also T or A. Values come chunk
// by chunk. Groups of 4 warps have 16 columns each.
template <int kSlicesOfStep, int kStepsOfRead, int kParts>
class PassRoom {
 public:
  static constexpr int kSlices = kSlicesOfStep;
  static constexpr int kSteps = kStepsOfRead;
  static constexpr int kStage = kMmas * kMmas * kParts * kTileBytes;  // as WeightLayout has it
  static constexpr int kFoldStage = kStage + kSegments * kSlice * static_cast<int>(sizeof(float));
  static constexpr int kSquare = kSlices * kStage;  // where T or A begins

  // Of values: 8 rows lie in banks of their own.
  __host__ __device__ static constexpr int ValueStride(int columns) { return columns + 4; }

  static int Bytes(int groups, int buffers) {
    return kBarrierBytes + buffers * kBufferBytes + ValueBytes(groups * kPassColumns);
  }

  __device__ PassRoom(std::byte* shared, int buffers)
      : shared_(shared), buffers_(buffers), groups_(static_cast<int>(blockDim.x) / 32 / kReaders) {}

  // All threads of the block.
  __device__ void Init() const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < buffers_; ++i) {
        weights_here(i).Init();
        weights_free(i).Init(kReaders * groups_);
      }
      for (int i = 0; i < 2; ++i) {
        values_here(i).Init(32 * kValueCopiers);
        values_free(i).Init(kReaders * groups_);
      }
      CopyBarrier::FenceInit();
    }
    __syncthreads();
  }

  // Whether this warp copies.
  __device__ bool Copies() const { return Copier() >= 0; }

  // Which of the warps that do; negative if it does not.
  __device__ int Copier() const { return static_cast<int>(threadIdx.x) / 32 - kReaders * groups_; }

  __device__ int buffers() const { return buffers_; }

  __device__ int columns() const { return groups_ * kPassColumns; }

  // The block's first column.
  __device__ int column() const { return static_cast<int>(blockIdx.x) * columns(); }

  __device__ CopyBarrier& weights_here(int buffer) const {
    return reinterpret_cast<CopyBarrier*>(shared_)[buffer];
  }

  // Warps arrive.
  __device__ ArrivalBarrier& weights_free(int buffer) const {
    return arrivals()[kMaxBuffers + buffer];
  }

  // Threads that copy do, once what they copy is there.
  __device__ ArrivalBarrier& values_here(int chunk) const {
    return arrivals()[2 * kMaxBuffers + chunk % 2];
  }

  // Warps do.
  __device__ ArrivalBarrier& values_free(int chunk) const {
    return arrivals()[2 * kMaxBuffers + 2 + chunk % 2];
  }

  __device__ std::byte* weights(int buffer) const {
    return shared_ + kBarrierBytes + buffer * kBufferBytes;
  }

  // Of a chunk's entries [64, columns], 0 where there is none.
  __device__ float* values(int chunk) const {
    return reinterpret_cast<float*>(weights(buffers_)) + chunk % 2 * kChunk * value_stride();
  }

  __device__ int value_stride() const { return ValueStride(columns()); }

  // What lies behind.
  __device__ std::byte* after() const { return weights(buffers_) + ValueBytes(columns()); }

 private:
  static constexpr int kBufferBytes = std::max(kSquare + kStage, kSlices* kFoldStage);
  static constexpr int kBarrierBytes = 128;
  static constexpr int kMaxBuffers = 6;
  static_assert((2 * kMaxBuffers + 4) * sizeof(CopyBarrier) <= kBarrierBytes);
  static_assert(sizeof(CopyBarrier) == sizeof(ArrivalBarrier));

  __host__ __device__ static int ValueBytes(int columns) {
    return 2 * kChunk * ValueStride(columns) * static_cast<int>(sizeof(float));
  }

  __device__ ArrivalBarrier* arrivals() const { return reinterpret_cast<ArrivalBarrier*>(shared_); }

  std::byte* const shared_;  // barriers, weights, values
  const int buffers_;
  const int groups_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_PASS_ROOM_CUH_
