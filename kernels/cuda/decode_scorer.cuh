// The warps of a decode block that prepare units for the consumers: what each entry weighs in the
// token's reads, what decays. They also append the token's key to its ring.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_SCORER_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_SCORER_CUH_

#include "kernels/cuda/decode_unit.cuh"

namespace evenflow {

template <class Shape>
class DecodeScorer {
 public:
  using Memory = typename Shape::Memory;
  static constexpr int kDim = Shape::kKeyDim;

  __device__ DecodeScorer(const AdvanceCall& call, const DecodePlan& plan,
                          const DecodeShared<Shape>& shared)
      : call_(call),
        plan_(plan),
        shared_(shared),
        warp_(static_cast<int>(threadIdx.x) / 32 - Shape::kConsumers),
        lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ void Run() {
    RingCursor buffer;
    for (bool more = true; more; buffer.Next(plan_.unit_buffers)) {
      shared_.header->unit_full[buffer.index].Wait(buffer.parity);
      const UnitInfo& info = shared_.header->info[buffer.index];
      more = info.unit.tiles > 0;
      if (more) {
        const DecodeUnit<Shape> unit(info, shared_.UnitData(buffer.index),
                                     shared_.header->weights[buffer.index][0], shared_.ring,
                                     call_.args.window.commit);
        unit.Score(warp_);
        if (info.unit.tile == 0 && warp_ == Shape::kScorers - 1) {
          AppendKey(info, unit);
        }
        FenceBeforeBulk();  // pending keys were decayed in place
      }
      __syncwarp();
      if (lane_ == 0) {
        shared_.header->unit_ready[buffer.index].Arrive();
      }
    }
  }

 private:
  __device__ void AppendKey(const UnitInfo& info, const DecodeUnit<Shape>& unit) const {
    const int64_t entry = int64_t{info.unit.head} * shared_.ring + info.row.entry;
    auto* keys = reinterpret_cast<float*>(info.layer + call_.layout.keys) + entry * kDim;
    auto* logs = reinterpret_cast<float*>(info.layer + call_.layout.log_decay);
    for (int r = lane_; r < kDim; r += 32) {
      keys[r] = unit.TokenKey()[r];
      if (Memory::kDecay == Decay::kChannel) {
        logs[entry * kDim + r] = unit.Log(r);
      }
    }
    if (Memory::kDecay == Decay::kScalar && lane_ == 0) {
      logs[entry] = unit.ScalarLog();
    }
    if (info.row.starts && info.unit.head == 0 && lane_ == 0) {
      *reinterpret_cast<int64_t*>(info.layer + call_.layout.committed_tokens) = 0;
    }
  }

  const AdvanceCall& call_;
  const DecodePlan& plan_;
  const DecodeShared<Shape>& shared_;
  const int warp_;
  const int lane_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_SCORER_CUH_
