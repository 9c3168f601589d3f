// VLA's stage before the memory: chooses the kernel for its heads.
#include <algorithm>

#include "kernels/cuda/precondition_head.cuh"

namespace evenflow {
namespace {

constexpr int kMaxGroups = 8;
constexpr int kManyWarps = 4;                 // of a head, where there are many
constexpr int kManyHeads = 8;                 // a multiprocessor
constexpr size_t kMaxSharedBytes = 96 << 10;  // with fewer groups, if that helps

template <int kDim>
__global__ void __launch_bounds__(32 * (IsStaged(kDim) ? kStagedGroups : kMaxGroups),
                                  IsStaged(kDim) ? 3 : 2)
    PreconditionKernel(const __grid_constant__ PreconditionCall call) {
  extern __shared__ __align__(16) float shared[];
  LetNextBegin();
  const Row row = call.rows[blockIdx.y];
  if (row.tokens == 0) {
    AwaitKernelsBefore();  // so that this grid does not end before those before it
    return;
  }
  const PreconditionView<kDim> view(call, row, static_cast<int>(blockIdx.x), shared);
  PreconditionHead<kDim> head(view);
  AwaitKernelsBefore();
  head.Run();
}

auto KernelFor(int key_dim) {
  switch (key_dim) {
    case 64:
      return PreconditionKernel<64>;
    case 128:
      return PreconditionKernel<128>;
    case 256:
      return PreconditionKernel<256>;
    default:
      return PreconditionKernel<0>;
  }
}

}  // namespace

void CudaPrecondition(const PreconditionArgs& args, const CudaStep& step) {
  const Preconditioner& of = args.preconditioner;
  PreconditionCall call;
  call.args = args;
  call.layout = LayoutOf(of, args.window);
  call.window = WindowOf(of, args.window);
  call.rows_per_token = RowsPerToken(of);
  call.entries = EntryCount(MemoryOf(of.mode));
  call.leak = LeakSize(of);
  call.fold_growth = Growth(of, call.window.commit);
  call.rows = step.rows;
  call.health = step.health + int64_t{args.memory_layer} * step.health_stride;
  call.groups = IsStaged(of.key_dim) ? kStagedGroups : kMaxGroups;
  while (call.groups > 1 && call.SharedBytes() > kMaxSharedBytes) {
    call.groups /= 2;
  }
  const size_t bytes = call.SharedBytes();
  // Bits do not depend on the warps: kernels/cuda/README.md has the times.
  const bool many = of.heads * step.row_count > kManyHeads * Multiprocessors();
  const int warps = many ? std::min(call.groups, kManyWarps) : call.groups;
  const auto kernel = KernelFor(of.key_dim);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(bytes));
  Launch(kernel,
         {dim3(static_cast<unsigned>(of.heads), static_cast<unsigned>(step.row_count)), 32 * warps,
          bytes},
         step.stream, call);
}

}  // namespace evenflow
