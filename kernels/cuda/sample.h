// Choosing tokens on the device. A row's parameters travel with the step as plain data, and what
// the host must look up for it (the tokens that penalties, biases and bans fall on) as lists.
#ifndef EVENFLOW_KERNELS_CUDA_SAMPLE_H_
#define EVENFLOW_KERNELS_CUDA_SAMPLE_H_

#include <cstdint>
#include <vector>

#include "kernels/cuda/step.h"
#include "kernels/occurrences.h"
#include "kernels/sampling.h"

namespace evenflow {

inline constexpr int kMaxTopLogprobs = 32;

// A change of one token's logit.
struct LogitEdit {
  int32_t token = 0;
  float bias = 0;           // of a bias
  Occurrences occurrences;  // of a penalty
};

// SamplingRow, as the device sees it. Ranges are of the step's list of edits.
struct CudaSamplingRow {
  bool wanted = false;  // false: a row that the step does not use
  float temperature = 1, typical_p = 1, top_p = 1, min_p = 0;
  float repetition = 1, frequency = 0, presence = 0;
  int32_t top_k = 0;
  int32_t top_logprobs = -1;
  int32_t biases = 0, allowed = 0, banned = 0, seen = 0;  // how many edits of each kind follow
  int32_t first_edit = 0;
  bool newest_seen = false;  // the token read for this sample was seen, too, and is in no edit
  double draw = 0;           // uniform in [0, 1)

  __host__ __device__ int32_t edits() const { return biases + allowed + banned + seen; }
};

// Appends the row's edits, in the order in which they are applied. Those of tokens that no
// vocabulary has are left to the device to skip.
CudaSamplingRow PrepareSampling(const SamplingRow& row, std::vector<LogitEdit>* edits);

struct CudaSampled {
  int32_t token = -1;
  float logprob = 0;
};

// What the sampler reads and writes, in device memory.
struct CudaSampling {
  const CudaSamplingRow* rows = nullptr;  // [logit]
  const LogitEdit* edits = nullptr;
  CudaSampled* sampled = nullptr;  // [logit]
  TokenLogprob* top = nullptr;     // [logit, kMaxTopLogprobs], where some are wanted
};

// Fills sampling.sampled and sampling.top.
void CudaSample(const SampleArgs& args, const CudaSampling& sampling, const CudaStep& step);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_SAMPLE_H_
