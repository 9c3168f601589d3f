// Half-split rotary position embedding. A table is one thread's own.
#ifndef EVENFLOW_KERNELS_CPU_ROTARY_H_
#define EVENFLOW_KERNELS_CPU_ROTARY_H_

#include <cstdint>
#include <vector>

namespace evenflow {

// Cosines and sines of one position for heads of `dim` channels (even), reused over heads.
class RotaryTable {
 public:
  void SetPosition(float base, int dim, int64_t position);

  // x [dim]: y[i] = x[i] cos - x[i + dim/2] sin, y[i + dim/2] = x[i + dim/2] cos + x[i] sin.
  void Rotate(float* x) const;

 private:
  float base_ = 0;
  std::vector<double> frequency_;  // [dim / 2], radians per position
  std::vector<float> cos_, sin_;   // [dim / 2]
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_ROTARY_H_
