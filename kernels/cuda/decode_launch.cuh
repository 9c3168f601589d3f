// The decode kernel, and its launch for one type of state.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_LAUNCH_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_LAUNCH_CUH_

#include "kernels/cuda/decode_block.cuh"

namespace evenflow {

// All of it at once, which branches on its parts would prevent: they would come one after the
// other.
__device__ inline Row LoadRow(const Row* row) {
  Row r;
  asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(r.slot), "=r"(r.first_token) : "l"(row));
  asm volatile("ld.global.b32 %0, [%1];" : "=r"(r.tokens) : "l"(&row->tokens));
  asm volatile("ld.global.b64 %0, [%1];" : "=l"(r.position) : "l"(&row->position));
  return r;
}

template <class Shape, bool kFew>
__global__ void __launch_bounds__(Shape::kThreads, kFew ? Shape::kBlocksOfFew : Shape::kBlocks)
    Decode(const __grid_constant__ AdvanceCall call, const __grid_constant__ DecodePlan plan) {
  extern __shared__ __align__(128) char memory[];
  LetNextBegin();
  const Row row = LoadRow(call.rows + blockIdx.z);
  if (!call.Takes(row) || row.slot < 0 || row.position < 0) {
    AwaitKernelsBefore();  // so that this grid does not end before those before it
    return;
  }
  DecodeBlock<Shape, kFew>(call, plan, row, reinterpret_cast<DecodeShared<Shape>*>(memory)).Run();
}

template <class Shape, bool kFew>
void LaunchDecode(const AdvanceCall& call, const BesideAdvance& beside, const CudaStep& step) {
  const AdvanceArgs& args = call.args;
  const MemoryShape& shape = args.shape;
  DecodePlan plan;
  plan.commit = Divider(args.window.commit);
  plan.ring = Divider(args.window.ring());
  plan.heads_a_query = SmallDivider(shape.heads / shape.query_heads);
  plan.heads_a_key = SmallDivider(shape.heads / shape.key_heads);
  plan.heads_a_value = SmallDivider(shape.heads / shape.value_heads);
  plan.stored = step.counters + kCounters;
  if (beside.inputs != nullptr) {
    plan.prepares = true;
    plan.inputs = *beside.inputs;
    plan.frequencies = InputFrequencies(*beside.inputs, step);
  }
  if (beside.output != nullptr) {
    plan.finishes = true;
    plan.output = *beside.output;
    plan.left = beside.left;
  }
  const int bytes = DecodeShared<Shape>::Bytes(args.window.ring());
  const dim3 blocks(CeilDiv(shape.value_dim, kTile * Shape::kWarps),
                    static_cast<unsigned>(shape.heads), static_cast<unsigned>(step.row_count));
  // Inputs, outputs and entries: about three keys and values of each token and head.
  const int64_t step_bytes =
      int64_t{step.token_count} * shape.heads * (shape.key_dim + shape.value_dim) * 12;
  plan.states_once = step_bytes <= kFewStepBytes;
  plan.keys_once = plan.states_once && blocks.x <= kFewBlocksOfHead;
  const auto kernel = Decode<Shape, kFew>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  Launch(kernel, {blocks, Shape::kThreads, static_cast<size_t>(bytes)}, step.stream, call, plan);
}

template <class State, bool kFew>
void DecodeWith(const AdvanceCall& call, const BesideAdvance& beside, const CudaStep& step) {
  VisitDecodeShape<State>(call.args,
                          [&]<class Shape>() { LaunchDecode<Shape, kFew>(call, beside, step); });
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_LAUNCH_CUH_
