// The recurrence of each memory in double precision, token by token, from the papers' equations.
// Shares nothing with the kernels but the descriptions of shapes and inputs.
#ifndef EVENFLOW_TESTS_SUPPORT_MEMORY_REFERENCE_H_
#define EVENFLOW_TESTS_SUPPORT_MEMORY_REFERENCE_H_

#include <vector>

#include "tests/support/memory_sessions.h"

namespace evenflow {

struct MemoryReference {
  std::vector<double> outputs;  // [token, output_heads, value_dim]
  // [heads (, banks), key_dim, value_dim] after `state_tokens` tokens
  std::vector<double> states;
  // [token, heads], Frobenius, after the token; of banked memories the sum over the levels, each
  // times the weight with which the token reads it
  std::vector<double> norms;
  std::vector<double> peak_norms;  // [token, heads], the largest norm so far
};

// `state_tokens`: when to keep the states; at most inputs.tokens.
MemoryReference RunReference(const MemorySetup& setup, const MemoryInputs& inputs,
                             int state_tokens);

// The same for VORT: exact weights for the entries that a token reads one by one, the sum of
// TestPowerLaw's exponentials for all others. States refer to the positions that
// PowerLawBanks::Reference gives; norms add what the near entries weigh.
MemoryReference RunPowerLawReference(const MemorySetup& setup, const MemoryInputs& inputs,
                                     int state_tokens);

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_SUPPORT_MEMORY_REFERENCE_H_
