// What a block that takes rows from chunk to chunk (kernels/cuda/prefill_pass.cu) reads, on its
// way through shared memory. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_PASS_STREAM_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_PASS_STREAM_CUH_

#include <algorithm>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/head_view.cuh"
#include "kernels/cuda/prefill_splits.cuh"

namespace evenflow {

// No memory's type is needed: what differs is in the weights.
using PassView = HeadView<LinearAttention>;

// Weights of a row's head step by step, and the values of its chunks. A step brings the stages of
// some slices of 64 keys, as WeightLayout has them, the last of a read also T or A.
template <int kKeys, int kParts>
class PassStream {
 public:
  static constexpr int kStage = kMmas * kMmas * kParts * kTileBytes;  // as WeightLayout has it
  static constexpr int kFoldStage = kStage + kSegments * kSlice * static_cast<int>(sizeof(float));

  static constexpr int kSlices = kParts == kFastParts ? kKeys / kSlice  // of a step
                                                      : std::min(2, kKeys / kSlice);
  static constexpr int kSteps = kKeys / kSlice / kSlices;  // that bring all keys
  static constexpr int kSquare = kSlices * kStage;         // where T or A begins

  static constexpr int kMaxGroups = kSlices * kParts <= 2 ? 4 : 2;  // of columns of a block
  static constexpr int kMaxThreads = 32 * kSplits * kMaxGroups;

  static constexpr int kLeastBuffers = 2;  // of a step's weights
  static constexpr int kMostBuffers = kParts == kFastParts ? 3 : 2;

  static int SharedBytes(int groups, int buffers) {
    return kBarrierBytes + buffers * kBufferBytes + ValueBytes(groups * kPassColumns) +
           groups * WarpSplits<kParts>::kBytes;
  }

  __device__ PassStream(const PromptCall& call, int item, int head, const PassView& view,
                        const Chunks& chunks, int buffers, std::byte* shared)
      : view_(view),
        chunks_(chunks),
        buffers_(buffers),
        barriers_(reinterpret_cast<CopyBarrier*>(shared)),
        weights_(shared + kBarrierBytes),
        values_(reinterpret_cast<float*>(weights_ + buffers * kBufferBytes)),
        columns_(static_cast<int>(blockDim.x) / (32 * kSplits) * kPassColumns),
        value_dim_(call.advance.args.shape.value_dim),
        token_stride_(call.advance.args.shape.value_heads * value_dim_),
        wide_(call.wide),
        count_(chunks.count()),
        entry_shift_(call.layout.entry_shift),
        writing_(call.layout.writing),
        plain_steps_(call.layout.reads() * kSteps),
        item_bytes_(int64_t{call.advance.args.shape.heads} * call.layout.bytes()),
        first_(call.Weights(item, head)),
        first_value_(view.InputValue(0)) {}

  // The block's first column.
  __device__ int column() const { return static_cast<int>(blockIdx.x) * columns_; }

  // Which of a chunk's segments are folded: none of the last one's that is not stored.
  __device__ int segments(int chunk) const {
    const int store = chunks_.store(chunk);
    const bool rest = chunk + 1 < count_ && store < chunks_.end(chunk) - chunks_.begin(chunk);
    return (store > 0 ? 1 : 0) + (rest ? 1 : 0);
  }

  // All threads of the block, as below. Brings the first chunk's values.
  __device__ void Begin() {
    FetchValues(0);
    if (threadIdx.x == 0) {
      for (int i = 0; i < buffers_; ++i) {
        barriers_[i].Init();
      }
      CopyBarrier::FenceInit();
    }
    AwaitValues();
    __syncthreads();
    for (int i = 0; i < buffers_ - 1; ++i) {
      Fetch();
    }
  }

  // The next step's weights; they stay until the next call. A barrier of the block.
  __device__ const std::byte* Next() {
    barriers_[oldest_].Wait(parity_);
    __syncthreads();  // all are done with what came before, whose buffer is free
    const std::byte* const oldest = weights_ + oldest_ * kBufferBytes;
    oldest_ = oldest_ + 1 == buffers_ ? 0 : oldest_ + 1;
    parity_ ^= oldest_ == 0 ? 1 : 0;
    Fetch();
    return oldest;
  }

  // Begins to copy a chunk's values, if there is such a chunk.
  __device__ void FetchValues(int chunk) const {
    if (chunk >= count_) {
      return;
    }
    const int begin = chunks_.begin(chunk), end = chunks_.end(chunk);
    const int pieces = columns_ / 4;  // 4, 8 or 16 of a token
    const int tokens = static_cast<int>(blockDim.x) / pieces;
    const int c = static_cast<int>(threadIdx.x) % pieces * 4;
    const int count = value_dim_ - column() - c;
    const int from = count > 0 ? column() + c : 0;
    float* const values = Values(chunk) + c;
#pragma unroll 1
    for (int n = static_cast<int>(threadIdx.x) / pieces; n < kChunk; n += tokens) {
      const int t = begin + (n >> entry_shift_), entry = n & ((1 << entry_shift_) - 1);
      const bool there = t < 0 || (t < end && (writing_ >> entry & 1) != 0);
      const float* of = first_value_ + from;
      if (t < 0) {
        of = view_.ValueOf(1 << entry_shift_, t, entry, from);
      } else if (there) {
        of += int64_t{t} * token_stride_;
      }
      CopyFour(values + n * value_stride(), of, there ? count : 0, wide_);
    }
    CommitCopies();
  }

  // After it and the block's next barrier the values are there.
  __device__ void AwaitValues() const {
    WaitForCopies<0>();
  }

  // Those of a chunk's entries [64, columns], 0 where there is none.
  __device__ float* Values(int chunk) const {
    return values_ + chunk % 2 * kChunk * value_stride();
  }

  __device__ int value_stride() const {
    return ValueStride(columns_);
  }

  // WarpSplits' room.
  __device__ std::byte* exchange() const {
    return reinterpret_cast<std::byte*>(values_) + ValueBytes(columns_);
  }

 private:
  static constexpr int kBufferBytes = std::max(kSquare + kStage, kSlices* kFoldStage);
  static constexpr int kBarrierBytes = 128;
  static_assert(kMostBuffers * sizeof(CopyBarrier) <= kBarrierBytes);

  // 8 rows lie in banks of their own.
  __host__ __device__ static int ValueStride(int columns) {
    return columns + 4;
  }

  __host__ __device__ static int ValueBytes(int columns) {
    return 2 * kChunk * ValueStride(columns) * static_cast<int>(sizeof(float));
  }

  // Begins to copy the weights that come after the last that were fetched. The first warp does.
  __device__ void Fetch() {
    if (threadIdx.x >= 32 || chunk_ >= count_) {
      return;
    }
    if (step_ == 0) {
      from_ = first_ + chunk_ * item_bytes_;
      steps_ = plain_steps_ + kSteps * segments(chunk_);
    }
    const bool square = step_ % kSteps == kSteps - 1;
    const int bytes =
        step_ >= plain_steps_ ? kSlices * kFoldStage : kSquare + (square ? kStage : 0);
    barriers_[newest_].Copy(weights_ + newest_ * kBufferBytes, from_, bytes);
    barriers_[newest_].ThatIsAll();
    newest_ = newest_ + 1 == buffers_ ? 0 : newest_ + 1;
    from_ += bytes;
    ++step_;
    if (step_ == steps_) {
      step_ = 0;
      ++chunk_;
    } else if (step_ == plain_steps_ + kSteps) {
      from_ -= kSteps * kSlices * kFoldStage;  // once more for the second segment
    }
  }

  const PassView view_;
  const Chunks chunks_;
  const int buffers_;
  CopyBarrier* const barriers_;  // then weights, values, the exchange
  std::byte* const weights_;
  float* const values_;
  const int columns_;
  const int value_dim_;
  const int token_stride_;  // of values
  const bool wide_;
  const int count_;  // chunks
  const int entry_shift_;
  const uint32_t writing_;
  const int plain_steps_;
  const int64_t item_bytes_;  // of a chunk, all heads
  const std::byte* const first_;
  const float* const first_value_;
  const std::byte* from_ = nullptr;  // of the next to be fetched
  int chunk_ = 0;
  int step_ = 0;   // in that chunk
  int steps_ = 0;  // of that chunk
  int newest_ = 0;
  int oldest_ = 0;
  int parity_ = 0;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_PASS_STREAM_CUH_
