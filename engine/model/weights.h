// From named tensors of a checkpoint to weights in the backend's memory, every name and shape
// checked. The first error sticks: callers ask for all they need, then call Finish(). Without a
// checkpoint it only notes what is asked for, which tells what a checkpoint must hold. Owned by the
// loading thread.
#ifndef EVENFLOW_ENGINE_MODEL_WEIGHTS_H_
#define EVENFLOW_ENGINE_MODEL_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "engine/model/backend_memory.h"
#include "engine/model/safetensors.h"
#include "kernels/tensor.h"

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace evenflow {

// A tensor that is asked for.
struct TensorPart {
  std::string name;
  std::vector<int64_t> shape;
  bool optional = false;  // absent: zeros
};

class Weights {
 public:
  // `checkpoint` and `memory` outlive this. `progress` gets the fraction of bytes read; may be
  // empty.
  Weights(const Safetensors& checkpoint, BackendMemory& memory,
          std::function<void(double)> progress);
  // Notes only: Has() is always false, weights are null.
  Weights() = default;

  bool Has(absl::string_view name) const;
  // Empty when absent.
  std::vector<int64_t> ShapeOf(absl::string_view name) const;

  // The parts' rows below one another as one matrix [sum of rows, cols]: one product serves all.
  // bf16 where every part is BF16, else fp32. Each part's shape is [rows, cols].
  Weight Matrix(const std::vector<TensorPart>& parts);
  // The parts behind one another as fp32, each number mapped by `map` if there is one; nullptr when
  // all of them are optional and absent.
  const float* Vector(const std::vector<TensorPart>& parts, float (*map)(float) = nullptr);
  // The part's numbers in this process, for what is computed from them; empty without a checkpoint.
  std::vector<float> Numbers(const TensorPart& part);
  // Numbers that are in no file, as fp32.
  const float* Constant(const std::vector<float>& values);
  // The tensor may be there and is not used.
  void Ignore(absl::string_view name);

  // Records an error.
  void Fail(absl::Status status);

  const absl::Status& status() const { return status_; }

  // The first error, or INVALID_ARGUMENT naming tensors of the checkpoint that nobody asked for.
  absl::Status Finish() const;

  int64_t parameters() const { return parameters_; }  // elements of the tensors used

  // What was asked for, each once, optional parts excluded.
  const std::vector<TensorPart>& asked() const { return asked_; }

 private:
  // The part's entry, checked; nullptr when absent (an error unless optional).
  const TensorEntry* Find(const TensorPart& part);
  bool ReadFloats(const TensorEntry& entry, float* to, float (*map)(float) = nullptr);
  bool ReadBFloats(const TensorEntry& entry, void* to);
  void* Allocate(size_t bytes);
  void Advance(uint64_t bytes);

  const Safetensors* checkpoint_ = nullptr;
  BackendMemory* memory_ = nullptr;
  std::function<void(double)> progress_;
  std::set<std::string, std::less<>> used_;
  std::vector<TensorPart> asked_;
  std::set<std::string> asked_names_;
  absl::Status status_;
  int64_t parameters_ = 0;
  uint64_t bytes_read_ = 0;
  uint64_t bytes_total_ = 0;
};

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_MODEL_WEIGHTS_H_
