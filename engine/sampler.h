// How a request chooses its tokens, on the host's side: checks what a client asks for and prepares
// the rows that a backend samples. Plain functions; thread-safe.
#ifndef EVENFLOW_ENGINE_SAMPLER_H_
#define EVENFLOW_ENGINE_SAMPLER_H_

#include "kernels/sampling.h"

#include "absl/status/status.h"

namespace evenflow {

// INVALID_ARGUMENT names the field, the value and what is allowed.
absl::Status ValidateSampling(const SamplingParams& params, int vocab_size);

}  // namespace evenflow

#endif  // EVENFLOW_ENGINE_SAMPLER_H_
