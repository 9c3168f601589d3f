// Instantiates and launches the decode kernel for one type of state.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_LAUNCH_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_LAUNCH_CUH_

#include <algorithm>

#include "kernels/cuda/decode_consumer.cuh"
#include "kernels/cuda/decode_finisher.cuh"
#include "kernels/cuda/decode_producer.cuh"
#include "kernels/cuda/decode_scorer.cuh"

namespace evenflow {

// Rows are written before a step's first kernel, states by none but this: so both may be read
// before the kernels before this one have ended.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    Decode(const __grid_constant__ AdvanceCall call, const __grid_constant__ DecodePlan plan) {
  extern __shared__ __align__(128) char memory[];
  const DecodeShared<Shape> shared(memory, call.args.window.ring(), plan);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (int i = 0; i < plan.stages; ++i) {
      shared.header->stage_full[i].Init(1);
      shared.header->stage_empty[i].Init(Shape::kGroupWarps);
    }
    for (int i = 0; i < plan.unit_buffers; ++i) {
      shared.header->unit_full[i].Init(1 + 32);  // the producer's lanes bring words of their own
      shared.header->unit_ready[i].Init(Shape::kScorers);
      shared.header->unit_empty[i].Init(Shape::kConsumers + 1);  // and the finisher
    }
    FenceMbarrierInit();
  }
  __syncthreads();
  cudaTriggerProgrammaticLaunchCompletion();
  const int warp = thread / 32;
  DecodeProducer<Shape> producer(call, plan, shared);
  if (warp == Shape::kProducer) {
    producer.RunAhead();
  } else if (warp < Shape::kProducer) {
    for (int row = thread; row < plan.row_count; row += 32 * Shape::kProducer) {
      shared.rows[row] = DescribeRow(call, plan, call.rows[row]);
    }
    cudaGridDependencySynchronize();
  } else {
    cudaGridDependencySynchronize();
  }
  __syncthreads();
  if (warp < Shape::kConsumers) {
    DecodeConsumer<Shape>(call, plan, shared).Run();
  } else if (warp < Shape::kProducer) {
    DecodeScorer<Shape>(call, plan, shared).Run();
  } else if (warp == Shape::kProducer) {
    producer.Run();
  } else {
    DecodeFinisher<Shape>(call, plan, shared).Run();
  }
}

inline int DeviceAttribute(cudaDeviceAttr attribute) {
  int device = 0;
  int value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

// All but the sizes of shared memory.
inline DecodePlan PlanDecode(const AdvanceArgs& args, const CudaStep& step, int unit_shift) {
  const MemoryShape& shape = args.shape;
  DecodePlan plan;
  plan.row_count = step.row_count;
  plan.unit_shift = unit_shift;
  plan.tiles = Tiles(shape.value_dim);
  plan.parts = Divider(static_cast<int>(CeilDiv(plan.tiles, 1 << unit_shift)));
  const int row_parts = step.row_count * shape.heads * plan.parts.divisor;
  const int singles = kSingleTiles * DeviceAttribute(cudaDevAttrMultiProcessorCount);
  plan.whole = std::max(0, row_parts - (singles >> unit_shift));
  plan.units = plan.whole + ((row_parts - plan.whole) << unit_shift);
  plan.heads = Divider(shape.heads);
  plan.heads_a_query = Divider(shape.heads / shape.query_heads);
  plan.heads_a_key = Divider(shape.heads / shape.key_heads);
  plan.heads_a_value = Divider(shape.heads / shape.value_heads);
  plan.commit = Divider(args.window.commit);
  plan.ring = Divider(args.window.ring());
  plan.counters = step.counters;
  return plan;
}

template <class Shape>
void LaunchDecode(const AdvanceCall& call, const CudaStep& step) {
  const int ring = call.args.window.ring();
  const int memory = DeviceAttribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  const int stage_bytes = StageLayout<Shape>::Bytes(ring);
  DecodePlan sizes;
  sizes.row_count = step.row_count;
  sizes.unit_buffers = kMinUnitBuffers;
  const int stages = (memory - DecodeShared<Shape>::Bytes(ring, sizes)) / stage_bytes;
  DecodePlan plan = PlanDecode(call.args, step, stages < 4 ? 1 : 2);
  // Few sessions: no more shared memory than is of use, so that the next kernel fits in beside.
  const int blocks = std::min(DeviceAttribute(cudaDevAttrMultiProcessorCount), plan.units);
  const int tiles = step.row_count * call.args.shape.heads * plan.tiles;
  plan.stages = std::min({kMaxStages, stages, static_cast<int>(CeilDiv(tiles, blocks)) + 1});
  // A stage always serves the same group, so there are as many for each, or one at most.
  if (plan.stages > Shape::kGroups) {
    plan.stages = plan.stages / Shape::kGroups * Shape::kGroups;
  }
  plan.unit_buffers = kMinUnitBuffers;
  const int left = memory - DecodeShared<Shape>::Bytes(ring, plan);
  plan.unit_buffers +=
      std::min({kMaxUnitBuffers - kMinUnitBuffers, static_cast<int>(CeilDiv(plan.units, blocks)),
                left / (4 * UnitLayout<Shape>::Floats(ring))});
  const int bytes = DecodeShared<Shape>::Bytes(ring, plan);
  cudaFuncSetAttribute(Decode<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  Launch(Decode<Shape>,
         {dim3(static_cast<unsigned>(blocks)), Shape::kThreads, static_cast<size_t>(bytes)},
         step.stream, call, plan);
}

template <class State>
void DecodeWith(const AdvanceCall& call, const CudaStep& step) {
  VisitDecoded(call.args.memory, [&]<class Memory>() {
    switch (call.args.shape.key_dim) {
      case 64:
        return LaunchDecode<DecodeShape<Memory, State, 64>>(call, step);
      case 128:
        return LaunchDecode<DecodeShape<Memory, State, 128>>(call, step);
      case 256:
        return LaunchDecode<DecodeShape<Memory, State, 256>>(call, step);
    }
  });
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_LAUNCH_CUH_
