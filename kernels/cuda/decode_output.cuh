// What becomes of what a token reads, where MemoryOutput is left to the decode kernel: the blocks
// of a head are a cluster, which adds up the squares of its norm.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_OUTPUT_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_OUTPUT_CUH_

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/memory_output.cuh"

namespace evenflow {

// Of one lane; every two have a column.
template <class Shape>
class DecodeOutput {
 public:
  // Before anything waits. Of the thread that inits the block's barriers.
  __device__ void Expect(const DecodePlan& plan, DecodeShared<Shape>* shared) const {
#if __CUDA_ARCH__ >= 900
    shared->squares_here.Expect(Tiles(plan.output.value_dim) * static_cast<int>(sizeof(float)));
#endif
  }

  // What no kernel of a step writes. `column` is the lane's, `owns` whether it exists.
  __device__ void BeforeInputs(const DecodePlan& plan, int column, bool owns) {
    const MemoryOutputArgs& args = plan.output;
    if (args.norm != OutputNorm::kNone) {
      ArriveAtCluster();
    }
    if (args.weight != nullptr && owns) {
      weight_ = args.weight[(args.weight_per_head ? First(args) : 0) + column];
    }
  }

  __device__ void LoadGate(const DecodePlan& plan, int token, int column, bool owns) {
    const MemoryOutputArgs& args = plan.output;
    if (args.gate.data != nullptr && owns) {
      gate_ = Load(args.gate, token, First(args) + column);
    }
  }

  // All warps of the cluster's blocks. `tile` is the warp's among the head's.
  __device__ void Finish(const DecodePlan& plan, int token, int column, bool owns, int tile,
                         float value, DecodeShared<Shape>* shared) const {
    const MemoryOutputArgs& args = plan.output;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const float gated = ActivateApart(args.gate_activation, gate_);
    float factor = 1;
#if __CUDA_ARCH__ >= 900
    if (args.norm != OutputNorm::kNone) {
      const float sum = SumTile<2>(owns ? SquareOf(args.norm, value, gated) : 0.0f);
      const int tiles = Tiles(args.value_dim);
      AwaitCluster();
      if (lane < static_cast<int>(gridDim.x) && tile < tiles) {
        shared->squares_here.Send(sum, shared->squares + tile, lane);
      }
      shared->squares_here.Wait(0);
      factor = InverseRms(SumTiles(shared->squares, tiles), args.value_dim, args.eps);
    }
#endif
    if (owns && lane % 2 == 0) {
      Store(args.y, token, First(args) + column, Finished(value, factor, weight_, 0.0f, gated));
    }
  }

 private:
  __device__ static int64_t First(const MemoryOutputArgs& args) {
    return int64_t{blockIdx.y} * args.value_dim;
  }

  float weight_ = 1, gate_ = 1;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_OUTPUT_CUH_
