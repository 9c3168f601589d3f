// The warp of a decode block that sees rows off: when all of a row's state has been stored, its
// health and how much is stored are written. A warp of its own, as it waits for stores to be seen.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_FINISHER_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_FINISHER_CUH_

#include "kernels/cuda/decode_plan.cuh"

namespace evenflow {

template <class Shape>
class DecodeFinisher {
 public:
  __device__ DecodeFinisher(const AdvanceCall& call, const DecodePlan& plan,
                            const DecodeShared<Shape>& shared)
      : call_(call), plan_(plan), shared_(shared), lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ void Run() {
    RingCursor buffer;
    for (;;) {
      shared_.header->unit_full[buffer.index].Wait(buffer.parity);
      const UnitInfo& info = shared_.header->info[buffer.index];
      const Unit unit = info.unit;
      const bool store = info.row.store;
      if (unit.tiles == 0) {
        return;
      }
      Mbarrier* empty = &shared_.header->unit_empty[buffer.index];
      __syncwarp();
      if (lane_ == 0) {
        empty->Arrive();  // the buffer is free once all consumers have done so, too
      }
      if (store) {
        empty->Wait(buffer.parity);
        Count(unit);
      }
      buffer.Next(plan_.unit_buffers);
    }
  }

 private:
  __device__ void Count(const Unit& unit) const {
    uint32_t* stored = plan_.counters + kCounters + unit.row;  // tiles
    const auto tiles = static_cast<uint32_t>(unit.tiles);
    uint32_t before = 0;
    if (lane_ == 0) {
      __threadfence();
      before = atomicAdd(stored, tiles);
      __threadfence();
    }
    before = __shfl_sync(kWarp, before, 0);
    if (before + tiles == static_cast<uint32_t>(call_.args.shape.heads * plan_.tiles)) {
      FinishRow(call_, unit.row);
      if (lane_ == 0) {
        *stored = 0;
      }
    }
  }

  const AdvanceCall& call_;
  const DecodePlan& plan_;
  const DecodeShared<Shape>& shared_;
  const int lane_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_FINISHER_CUH_
