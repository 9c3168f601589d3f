// The rings of a row's head that hold the keys and log decays of its newest tokens, as a block of
// the decode kernel reads and continues them.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_RING_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_RING_CUH_

#include "kernels/cuda/decode_inputs.cuh"
#include "kernels/cuda/decode_window.cuh"

namespace evenflow {

template <class Shape>
class DecodeRing {
 public:
  using T = typename Shape::T;
  static constexpr int kDim = Shape::kKeyDim;
  static constexpr int kKeys = kDim * T::kEntries;  // that a token writes
  static constexpr bool kScalar = Shape::Memory::kDecay == Decay::kScalar;

  // `layer` is the row's in its slot.
  __device__ DecodeRing(const AdvanceCall& call, std::byte* layer, DecodeShared<Shape>* shared)
      : shared_(shared), ring_(call.args.window.ring()) {
    const int first = static_cast<int>(blockIdx.y) * ring_;
    keys_ = reinterpret_cast<float*>(layer + call.layout.keys) + first * kKeys;
    logs_ =
        reinterpret_cast<float*>(layer + call.layout.log_decay) + first * (T::kChannels ? kDim : 1);
  }

  // Asks for what the window loads. once: see CopyBarrier::Copy.
  __device__ void Ask(const DecodeWindow<Shape>& window, bool once) const {
    const auto thread = static_cast<int>(threadIdx.x);
    if (thread < 32) {
      CopyBarrier* here = &shared_->entries_here;
      window.Copy(shared_->Keys(), keys_, kKeys, here, once);
      if (T::kChannels) {
        window.Copy(shared_->Logs(ring_), logs_, kDim, here, once);
      }
      here->ThatIsAll();
    }
    if (kScalar && thread < ring_) {
      CopyFloat(shared_->scalar_logs + thread, logs_ + thread);
    }
  }

  // After it and the block's next barrier log decays that channels share are there.
  __device__ void AwaitScalarLogs() const {
    if (kScalar) {
      WaitForAllCopies();
    }
  }

  // The token's, to the slot.
  __device__ void Append(const DecodeWindow<Shape>& window) const {
    Append(window, keys_, logs_, logs_);
  }

  // The token's, to those in shared memory.
  __device__ void AppendHere(const DecodeWindow<Shape>& window) const {
    Append(window, shared_->Keys(), shared_->Logs(ring_), shared_->scalar_logs);
  }

 private:
  // The latter two where the memory has them.
  __device__ void Append(const DecodeWindow<Shape>& window, float* keys, float* logs,
                         float* scalar_logs) const {
    keys += window.place * kKeys;
    ForKeyRows<Shape>([&](int r) {
#pragma unroll
      for (int n = 0; n < T::kEntries; ++n) {
        keys[n * kDim + r] = shared_->vectors[1 + n][r];
      }
      if (T::kChannels) {
        logs[window.place * kDim + r] = shared_->log[r];
      }
    });
    if (kScalar && threadIdx.x == 0) {
      scalar_logs[window.place] = window.ScalarLog();
    }
  }

  DecodeShared<Shape>* const shared_;
  const int ring_;
  float* keys_;
  float* logs_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_RING_CUH_
