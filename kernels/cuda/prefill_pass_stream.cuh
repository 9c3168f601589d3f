// What a block that takes rows from chunk to chunk (kernels/cuda/prefill_pass.cu) reads: its last
// warps copy weights and values into shared memory, the others take them from there. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_PASS_STREAM_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_PASS_STREAM_CUH_

#include "kernels/cuda/head_view.cuh"
#include "kernels/cuda/prefill_pass_room.cuh"

namespace evenflow {

// No memory's type is needed: what differs is in the weights.
using PassView = HeadView<LinearAttention>;

// Which of a chunk's segments are folded: none of the last one's that is not stored.
__device__ inline int FoldedSegments(const Chunks& chunks, int chunk) {
  const int store = chunks.store(chunk);
  const bool rest = chunk + 1 < chunks.count() && store < chunks.end(chunk) - chunks.begin(chunk);
  return (store > 0 ? 1 : 0) + (rest ? 1 : 0);
}

// The warps that copy, ahead of those that read.
template <class Room>
class PassSource {
 public:
  __device__ PassSource(const PromptCall& call, int prompt, int head, const Room& room)
      : call_(call),
        row_(call.advance.rows[call.rows.row[prompt]]),
        view_(call.advance, row_, head),
        chunks_(call, row_),
        from_(call.Weights(call.rows.first_item[prompt], head)),
        room_(room) {}

  __device__ void Run() {
    for (int chunk = 0; chunk < chunks_.count(); ++chunk) {
      if (room_.Copier() < kValueCopiers) {
        CopyValues(chunk);
      } else {
        CopyWeights(chunk);
      }
    }
  }

 private:
  __device__ void CopyValues(int chunk) const {
    const MemoryShape& shape = call_.advance.args.shape;
    const int lane = 32 * room_.Copier() + static_cast<int>(threadIdx.x) % 32;
    const int pieces = room_.columns() / 4;        // 4, 8 or 16 of an entry
    const int rows = 32 * kValueCopiers / pieces;  // entries at once: whole tokens
    const int shift = call_.layout.entry_shift;
    int n = lane / pieces;
    const int entry = n & ((1 << shift) - 1), c = lane % pieces * 4;
    const int count = shape.value_dim - room_.column() - c;
    const int from = count > 0 ? room_.column() + c : 0;
    const int to_step = rows * room_.value_stride();
    float* to = room_.values(chunk) + n * room_.value_stride() + c;
    int t = chunks_.begin(chunk) + (n >> shift);
    if (chunk >= 2) {
      room_.values_free(chunk).Wait((chunk / 2 + 1) % 2);
    }
    for (; n < kChunk && t < 0; n += rows, t += rows >> shift, to += to_step) {
      CopyFour(to, view_.ValueOf(1 << shift, t, entry, from), count, call_.wide);
    }
    const int left = (call_.layout.writing >> entry & 1) != 0 ? chunks_.end(chunk) - t : 0;
    const int64_t token = int64_t{shape.value_heads} * shape.value_dim;
    const int64_t step = token * (rows >> shift);
    const float* of = view_.InputValue(0) + t * token + from;
#pragma unroll 4
    for (int i = 0; n < kChunk; n += rows, i += rows >> shift, to += to_step, of += step) {
      const bool there = i < left;
      CopyFour(to, there ? of : view_.InputValue(0), there ? count : 0, call_.wide);
    }
    room_.values_here(chunk).ArriveAfterCopies();
  }

  // What the chunk's steps read.
  __device__ void CopyWeights(int chunk) {
    constexpr int kFolds = Room::kSlices * Room::kFoldStage;
    const WeightLayout& layout = call_.layout;
    const std::byte* from = from_;
    for (int read = 0; read < layout.reads(); ++read) {
      for (int step = 0; step < Room::kSteps; ++step) {
        const bool last = step == Room::kSteps - 1;
        const int bytes = Room::kSquare + (last ? Room::kStage : 0);
        CopyStep(from, bytes);
        from += bytes;
      }
    }
    for (int left = FoldedSegments(chunks_, chunk); left > 0; --left) {
      for (int step = 0; step < Room::kSteps; ++step) {
        CopyStep(from + step * kFolds, kFolds);
      }
    }
    from_ += int64_t{call_.advance.args.shape.heads} * layout.bytes();
  }

  __device__ void CopyStep(const std::byte* from, int bytes) {
    if (used_) {
      room_.weights_free(buffer_).Wait(parity_ ^ 1);
    }
    room_.weights_here(buffer_).Copy(room_.weights(buffer_), from, bytes);
    room_.weights_here(buffer_).ThatIsAll();
    if (++buffer_ == room_.buffers()) {
      buffer_ = 0;
      parity_ ^= 1;
      used_ = true;
    }
  }

  const PromptCall& call_;
  const Row row_;
  const PassView view_;
  const Chunks chunks_;
  const std::byte* from_;  // the next chunk's weights
  const Room& room_;
  bool used_ = false;  // all buffers
  int buffer_ = 0;
  int parity_ = 0;
};

// What the other warps take, each by itself and in whole.
template <class Room>
class PassStream {
 public:
  __device__ explicit PassStream(const Room& room) : room_(room) {}

  // The next step's weights; they stay until they are freed.
  __device__ const std::byte* Next() {
    room_.weights_here(next_).Wait(parity_);
    const std::byte* const weights = room_.weights(next_);
    if (++next_ == room_.buffers()) {
      next_ = 0;
      parity_ ^= 1;
    }
    return weights;
  }

  // Those of the oldest step that is not free.
  __device__ void Free() {
    Free(room_.weights_free(oldest_));
    oldest_ = oldest_ + 1 == room_.buffers() ? 0 : oldest_ + 1;
  }

  // They stay until they are freed.
  __device__ const float* Values(int chunk) const {
    room_.values_here(chunk).Wait(chunk / 2 % 2);
    return room_.values(chunk);
  }

  __device__ void FreeValues(int chunk) const { Free(room_.values_free(chunk)); }

 private:
  __device__ static void Free(ArrivalBarrier& barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      barrier.Arrive();
    }
  }

  const Room room_;
  int next_ = 0;
  int oldest_ = 0;
  int parity_ = 0;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_PASS_STREAM_CUH_
