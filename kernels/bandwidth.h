// What this machine's memory delivers: the yardstick of everything that reads weights or states.
#ifndef EVENFLOW_KERNELS_BANDWIDTH_H_
#define EVENFLOW_KERNELS_BANDWIDTH_H_

namespace evenflow {

// Bytes per second that `threads` threads (0: one for each physical core) together read from a
// buffer larger than the caches; the best of many short stretches. Takes about half a second and at
// least 256 MiB for that time. 0 when there is no memory for the buffer.
double MeasureReadBandwidth(int threads);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_BANDWIDTH_H_
