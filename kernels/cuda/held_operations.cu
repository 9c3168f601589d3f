// Operations that the CUDA backend puts off until it knows what follows them, as one kernel may do
// both.
#include <utility>

#include "kernels/cuda/cuda_backend.h"

namespace evenflow {

void CudaBackend::RunProduct(const MatMulArgs& args, const NormArgs* norm,
                             const MlpActivationArgs* mlp) {
  Beside beside = {.norm = norm, .mlp = mlp};
  if (left_.data == args.x.data) {
    beside.lacks = left_;
  }
  left_ = norm == nullptr ? LeftFactors{} : matmul_->Leave(*norm, RowsOf(args, step_));
  beside.leaves = left_;
  if (!matmul_->Run(args, beside, step_)) {
    Fail("cuBLASLt has no product of [" + std::to_string(args.w.rows) + ", " +
         std::to_string(args.w.cols) + "], or there is no memory for it");
  }
  Check(cudaGetLastError(), "MatMul");
}

void CudaBackend::RunHeld() {
  if (const std::optional<MatMulArgs> held = std::exchange(held_, std::nullopt)) {
    RunProduct(*held, nullptr, nullptr);
  }
  if (held_advance_) {
    RunAdvance(nullptr, {});
  } else if (const std::optional<MemoryInputsArgs> inputs =
                 std::exchange(held_inputs_, std::nullopt)) {
    CudaMemoryInputs(*inputs, step_);
    Check(cudaGetLastError(), "MemoryInputs");
  }
}

void CudaBackend::RunAdvance(const MemoryOutputArgs* output, const LeftFactors& left) {
  const std::optional<MemoryInputsArgs> inputs = std::exchange(held_inputs_, std::nullopt);
  const std::optional<AdvanceArgs> advance = std::exchange(held_advance_, std::nullopt);
  CudaAdvance(*advance, step_, {inputs ? &*inputs : nullptr, output, left});
  Check(cudaGetLastError(), "Advance");
}

void CudaBackend::Norm(const NormArgs& args) {
  if (Enqueues() && held_ && CanFollow(*held_, args)) {
    RunProduct(*std::exchange(held_, std::nullopt), &args, nullptr);
  } else {
    Run("Norm", CudaNorm, args);
  }
}

void CudaBackend::MlpActivation(const MlpActivationArgs& args) {
  if (Enqueues() && held_ && CanFollow(*held_, args)) {
    RunProduct(*std::exchange(held_, std::nullopt), nullptr, &args);
  } else {
    Run("MlpActivation", CudaMlpActivation, args);
  }
}

void CudaBackend::MatMul(const MatMulArgs& args) {
  if (Enqueues()) {
    RunHeld();
    if (matmul_->RunsBeside(args, step_)) {
      held_ = args;
    } else {
      RunProduct(args, nullptr, nullptr);
    }
  }
}

void CudaBackend::Advance(const AdvanceArgs& args) {
  MakeRoomForHealth(args.memory_layer);
  if (Enqueues()) {
    if (!held_inputs_ || held_advance_ || !CanGoBefore(args, *held_inputs_, step_)) {
      RunHeld();
    }
    held_advance_ = args;
  }
}

void CudaBackend::MemoryInputs(const MemoryInputsArgs& args) {
  if (Enqueues()) {
    RunHeld();
    held_inputs_ = args;
  }
}

void CudaBackend::MemoryOutput(const MemoryOutputArgs& args) {
  if (!Enqueues()) {
    return;
  }
  const LeftFactors left =
      matmul_->TakesFactors(args, step_) ? matmul_->Leave(args, step_.token_count) : LeftFactors{};
  if (held_advance_ && CanFollow(*held_advance_, args, left, step_)) {
    RunAdvance(&args, left);
  } else {
    RunHeld();
    CudaMemoryOutput(args, left, step_);
    Check(cudaGetLastError(), "MemoryOutput");
  }
  left_ = left;
}

}  // namespace evenflow
