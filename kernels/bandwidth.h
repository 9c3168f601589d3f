// What this machine's memory delivers: the yardstick of everything that reads weights or states.
#ifndef EVENFLOW_KERNELS_BANDWIDTH_H_
#define EVENFLOW_KERNELS_BANDWIDTH_H_

#include <memory>

namespace evenflow {

// Measures the rate at which threads together read a buffer larger than the caches. The buffer, of
// at least 256 MiB, lives as long as this object. One thread at a time.
class ReadBandwidth {
 public:
  // `threads` that read; 0: one for each physical core.
  explicit ReadBandwidth(int threads);
  ~ReadBandwidth();

  // Bytes per second: the best of many stretches so short that some of them run undisturbed on a
  // busy machine. Takes a tenth of a second. 0 when there is no memory for the buffer.
  double Measure();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_BANDWIDTH_H_
