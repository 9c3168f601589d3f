// What a block that takes rows from chunk to chunk (kernels/cuda/prefill_pass.cu) reads, on its
// way through shared memory. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_PASS_STREAM_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_PASS_STREAM_CUH_

#include "kernels/cuda/head_view.cuh"
#include "kernels/cuda/prefill_splits.cuh"
#include "kernels/cuda/prefill_stream.cuh"

namespace evenflow {

// No memory's type is needed: what differs is in the weights.
using PassView = HeadView<LinearAttention>;

// Weights of a row's head stage by stage, or two stages at once: those of 64 keys for each of the
// warps that share columns. And the values of its chunks.
template <int kKeys, int kParts>
class PassStream {
 public:
  static constexpr int kSplits = kKeys >= 128 ? 2 : 1;
  static constexpr int kMaxGroups = kParts == kFastParts ? 4 : 2;  // of columns of a block
  static constexpr int kMaxThreads = 32 * kSplits * kMaxGroups;

  static constexpr int kStage = kMmas * kMmas * kParts * kTileBytes;  // as WeightLayout has it
  static constexpr int kFoldStage = kStage + kSegments * kSlice * static_cast<int>(sizeof(float));

  static int SharedBytes(int groups) {
    return kBuffers * kBufferBytes + ValueBytes(groups * kPassColumns) +
           groups * kSplits * WarpSplits<kSplits>::kBytes;
  }

  __device__ PassStream(const PromptCall& call, int item, int head, const PassView& view,
                        const Chunks& chunks, std::byte* shared)
      : view_(view),
        chunks_(chunks),
        shared_(shared),
        values_(reinterpret_cast<float*>(shared + kBuffers * kBufferBytes)),
        columns_(static_cast<int>(blockDim.x) / (32 * kSplits) * kPassColumns),
        value_dim_(call.advance.args.shape.value_dim),
        token_stride_(call.advance.args.shape.value_heads * value_dim_),
        wide_(call.wide),
        count_(chunks.count()),
        plain_steps_(call.layout.reads() * (kSteps + 1)),
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

  // All threads of the block, as below.
  __device__ void Begin() {
    FetchValues(0);
    for (int i = 0; i < kBuffers - 1; ++i) {
      Fetch();
    }
  }

  // Waits for a chunk's values and first weights, and begins to copy the next one's values.
  __device__ void Await(int chunk) {
    AwaitOldest();
    FetchValues(chunk + 1);
  }

  // The weights that come next; they stay until the next call.
  __device__ const std::byte* Next() {
    AwaitOldest();
    const std::byte* const oldest = shared_ + oldest_ * kBufferBytes;
    oldest_ = oldest_ + 1 == kBuffers ? 0 : oldest_ + 1;
    Fetch();
    return oldest;
  }

  // Those of a chunk [64, columns], 0 where there is no token. There once it was awaited.
  __device__ float* Values(int chunk) const {
    return values_ + chunk % 2 * kChunk * value_stride();
  }

  __device__ int value_stride() const { return ValueStride(columns_); }

  // WarpSplits' room.
  __device__ std::byte* exchange() const {
    return reinterpret_cast<std::byte*>(values_) + ValueBytes(columns_);
  }

 private:
  // Values come with the last of the weights that are under way when the chunk before begins, of
  // which it reads 3 stages at least.
  static constexpr int kBuffers = kParts == kFastParts ? 4 : 3;
  static constexpr int kBufferBytes = kSplits * kFoldStage;
  static constexpr int kSteps = kKeys / kSlice / kSplits;  // that bring all keys

  // 8 rows lie in banks of their own.
  __host__ __device__ static int ValueStride(int columns) { return columns + 4; }

  __host__ __device__ static int ValueBytes(int columns) {
    return 2 * kChunk * ValueStride(columns) * static_cast<int>(sizeof(float));
  }

  __device__ void AwaitOldest() const {
    WaitForCopies<kBuffers - 2>();
    __syncthreads();  // all are done with what came before, whose buffer is free
  }

  // Begins to copy the weights that come after the last that were fetched.
  __device__ void Fetch() {
    if (chunk_ < count_) {
      if (step_ == 0) {
        from_ = first_ + chunk_ * item_bytes_;
        steps_ = plain_steps_ + kSteps * segments(chunk_);
      }
      const bool square = step_ % (kSteps + 1) == kSteps;
      const int bytes = step_ >= plain_steps_ ? kSplits * kFoldStage
                        : square              ? kStage
                                              : kSplits * kStage;
      std::byte* const to = shared_ + newest_ * kBufferBytes;
#pragma unroll 1
      for (int at = 16 * static_cast<int>(threadIdx.x); at < bytes;
           at += 16 * static_cast<int>(blockDim.x)) {
        CopyPiece(to + at, from_ + at);
      }
      from_ += bytes;
      ++step_;
      if (step_ == steps_) {
        step_ = 0;
        ++chunk_;
      } else if (step_ == plain_steps_ + kSteps) {
        from_ -= kSteps * kSplits * kFoldStage;  // once more for the second segment
      }
    }
    newest_ = newest_ + 1 == kBuffers ? 0 : newest_ + 1;
    CommitCopies();
  }

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
      const int t = begin + n;
      const float* of = first_value_ + from;
      if (t < 0) {
        of = view_.Value(t, 0, from);
      } else if (t < end) {
        of += int64_t{t} * token_stride_;
      }
      CopyFour(values + n * value_stride(), of, t < end ? count : 0, wide_);
    }
  }

  const PassView view_;
  const Chunks chunks_;
  std::byte* const shared_;  // weights; then values, then the exchange
  float* const values_;
  const int columns_;
  const int value_dim_;
  const int token_stride_;  // of values
  const bool wide_;
  const int count_;  // chunks
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
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_PASS_STREAM_CUH_
