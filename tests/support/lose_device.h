// For tests of what follows when the CUDA device fails.
#ifndef EVENFLOW_TESTS_SUPPORT_LOSE_DEVICE_H_
#define EVENFLOW_TESTS_SUPPORT_LOSE_DEVICE_H_

namespace evenflow {

// A kernel fails; from then on the process has no device any more. Any thread.
void LoseCudaDevice();

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_SUPPORT_LOSE_DEVICE_H_
