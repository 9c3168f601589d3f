// Passes over all logits of a token, dispatched to the machine's widest instruction set. Pure
// functions; any thread.
#ifndef EVENFLOW_KERNELS_CPU_LOGITS_H_
#define EVENFLOW_KERNELS_CPU_LOGITS_H_

#include <cstdint>

namespace evenflow {

// The largest of x[0, count); NaN when some element is NaN or +Inf.
float MaxLogit(const float* x, int64_t count);

// weights[i] = e^{(x[i] - max) / temperature}; returns their sum. `weights` may be nullptr.
double ExpWeights(const float* x, int64_t count, float max, float temperature, float* weights);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_LOGITS_H_
