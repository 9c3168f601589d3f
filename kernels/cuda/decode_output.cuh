// What becomes of what a token reads, where MemoryOutput is left to the decode kernel. The factors
// of its norm are left to the product that reads it: no block has the whole of a head.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_OUTPUT_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_OUTPUT_CUH_

#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/memory_output.cuh"

namespace evenflow {

// Of one lane; every two have a column.
template <class Shape>
class DecodeOutput {
 public:
  // What no kernel of a step writes. `column` is the lane's, `owns` whether it exists.
  __device__ void BeforeInputs(const DecodePlan& plan, int column, bool owns) {
    const MemoryOutputArgs& args = plan.output;
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

  // All threads of the block.
  __device__ void Finish(const DecodePlan& plan, int token, int column, bool owns, float value,
                         DecodeShared<Shape>* shared) const {
    const MemoryOutputArgs& args = plan.output;
    const int thread = static_cast<int>(threadIdx.x);
    const float gated = ActivateApart(args.gate_activation, gate_);
    if (owns && thread % 2 == 0) {
      Store(args.y, token, First(args) + column, Finished(value, 1.0f, weight_, 0.0f, gated));
    }
    if (plan.left.data == nullptr) {
      return;
    }
    const float sum = SumTile<2>(owns ? SquareOf(args.norm, value, gated) : 0.0f);
    if (thread % 32 == 0) {
      shared->squares[thread / 32] = sum;
    }
    __syncthreads();
    static_assert(Shape::kWarps % kPartTiles == 0);
    constexpr int kParts = Shape::kWarps / kPartTiles;
    const int part = static_cast<int>(blockIdx.x) * kParts + thread;
    if (thread < kParts && part < plan.left.parts) {
      plan.left.squares[(int64_t{token} * args.heads + blockIdx.y) * plan.left.parts + part] =
          SumPart(shared->squares + thread * kPartTiles, kPartTiles);
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
