// The step being worked on, as CUDA's operations see it. Owned by the CUDA backend; engine thread.
//
// Operations only enqueue on the step's stream. Where a pointer says device, it is at an address
// that stays the same from step to step, so that an operation can be captured into a graph: there,
// counts are those of the graph's bucket, which later steps may not fill. Rows that a step does not
// use have no tokens (Row::tokens is 0) and nothing may be read or written for them; tokens that it
// does not use have id 0, position 0 and token_row -1. Activations of unused tokens may be computed
// or not.
#ifndef EVENFLOW_KERNELS_CUDA_STEP_H_
#define EVENFLOW_KERNELS_CUDA_STEP_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include <cuda_runtime.h>

#include "kernels/operations.h"
#include "kernels/precondition.h"
#include "kernels/rwkv7_operations.h"
#include "kernels/step.h"
#include "kernels/window_attention.h"

namespace evenflow {

struct CudaSampled;

// Device memory for what an operation needs while it runs. Blocks are kept until the end, as graphs
// remember them; growth doubles, so they sum to less than twice the largest need.
class CudaScratch {
 public:
  CudaScratch() = default;
  CudaScratch(const CudaScratch&) = delete;
  CudaScratch& operator=(const CudaScratch&) = delete;
  ~CudaScratch();

  // 256-byte aligned and not initialised, the caller's until the next operation of the stream.
  // nullptr when there is no memory left. A second call of one operation invalidates the first.
  void* Take(size_t bytes);

 private:
  std::vector<void*> blocks_;
  size_t size_ = 0;  // of the newest
};

// Frequencies of rotary position embeddings in device memory, computed at their first use.
class CudaRotary {
 public:
  CudaRotary() = default;
  CudaRotary(const CudaRotary&) = delete;
  CudaRotary& operator=(const CudaRotary&) = delete;
  ~CudaRotary();

  // [dim / 2], radians per position, for heads of `dim` channels. nullptr when there is no memory.
  const double* Frequencies(float base, int dim);

 private:
  struct Table {
    float base;
    int dim;
    double* frequencies;
  };

  std::vector<Table> tables_;
};

inline constexpr int kMaxMixSegments = 8;  // of one convolution
inline constexpr int kCounters = 64;       // of a step, beside one for each row

struct CudaStep {
  cudaStream_t stream = nullptr;

  // Counts that bound launches: the step's or, under capture, the bucket's.
  int row_count = 0;
  int token_count = 0;
  int logit_count = 0;
  int max_row_tokens = 0;  // of one row; 1: a pure decode step, where row r has token r
  bool capturing = false;
  DType activations = DType::kBF16;  // fp32: operands of all products are fp32, too
  bool batch_invariant = false;      // a token's bits do not depend on how many share its step

  const Row* rows = nullptr;  // device [row]
  // Device [token]: ids or DrawnAt, of which Embed makes ids.
  int32_t* tokens = nullptr;
  const CudaSampled* drawn = nullptr;     // device [logit], of the step before; until Sample
  const int32_t* token_row = nullptr;     // device [token], index into rows
  const int64_t* positions = nullptr;     // device [token], absolute
  const int32_t* logit_tokens = nullptr;  // device [logit]
  const Row* host_rows = nullptr;  // host [row], until the operation returns; nullptr in a capture

  // Device [memory layer, health_stride]: that of row r in layer l is health[l * health_stride +
  // r]. Zero, so not committed, when a step begins.
  StateHealth* health = nullptr;
  int health_stride = 0;

  // Device [kCounters + rows of the largest step]: zero between operations; an operation leaves
  // zeros.
  uint32_t* counters = nullptr;

  CudaScratch* scratch = nullptr;
  CudaRotary* rotary = nullptr;
};

// One function an operation, each in the file of its name. `args` as documented in
// kernels/operations.h. A launch that fails is found by the backend.
void CudaEmbed(const EmbedArgs& args, const CudaStep& step);
void CudaNorm(const NormArgs& args, const CudaStep& step);
void CudaTokenMix(const TokenMixArgs& args, const CudaStep& step);
void CudaTokenShift(const TokenShiftArgs& args, const CudaStep& step);
void CudaMemoryInputs(const MemoryInputsArgs& args, const CudaStep& step);
// Also fills step.health of args.memory_layer.
void CudaPrecondition(const PreconditionArgs& args, const CudaStep& step);
void CudaGeneralizedDeltaKeys(const GeneralizedDeltaKeysArgs& args, const CudaStep& step);

// RMSNorm is one factor a row or a row's head, so the product that reads what is normalised can
// apply it: what such rows lack, and from what it is found. Written by the operation that leaves
// it.
struct LeftFactors {
  const void* data = nullptr;  // of the rows; nullptr: they lack nothing
  float* squares = nullptr;    // device [row, heads, parts]: sums of what was normalised
  int heads = 1;
  int parts = 0;
  int dim = 0;  // channels of a head
  float eps = 0;
};

// What is left to Advance, in place of launches of their own. nullptr: nothing.
struct BesideAdvance {
  const MemoryInputsArgs* inputs = nullptr;  // of its inputs, which stay unwritten
  const MemoryOutputArgs* output = nullptr;  // of what it reads, which stays unwritten
  LeftFactors left = {};                     // by the output
};

// Also fills step.health of args.memory_layer. REQUIRES of what is beside it: CanGoBefore,
// CanFollow.
void CudaAdvance(const AdvanceArgs& args, const CudaStep& step, const BesideAdvance& beside = {});
bool CanGoBefore(const AdvanceArgs& args, const MemoryInputsArgs& inputs, const CudaStep& step);
// `left`: what the output leaves to the product that reads it.
bool CanFollow(const AdvanceArgs& args, const MemoryOutputArgs& output, const LeftFactors& left,
               const CudaStep& step);
void CudaMemoryOutput(const MemoryOutputArgs& args, const LeftFactors& left, const CudaStep& step);
void CudaWindowAttention(const WindowAttentionArgs& args, const CudaStep& step);
void CudaMlpActivation(const MlpActivationArgs& args, const CudaStep& step);

// What of these arguments CUDA does not serve; nullptr: nothing.
const char* CudaRefusal(const TokenMixArgs& args);
const char* CudaRefusal(const AdvanceArgs& args);
const char* CudaRefusal(const WindowAttentionArgs& args);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_STEP_H_
