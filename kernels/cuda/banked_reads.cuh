// Queries that read a head's banks together, for a quad of columns. For .cu files; quad.cuh has who
// adds up what: here a lane's entries come first, then its rows, bank by bank.
#ifndef EVENFLOW_KERNELS_CUDA_BANKED_READS_CUH_
#define EVENFLOW_KERNELS_CUDA_BANKED_READS_CUH_

#include "kernels/cuda/bank_quad.cuh"
#include "kernels/cuda/banked_prepare.cuh"

namespace evenflow {

// Reads [first, first + kReads) of a segment. What is computed for those that it does not have is
// left alone.
template <class Memory, int kReads>
class BankedReads {
 public:
  // Of `width` columns from `column` on.
  __device__ BankedReads(const BankedPlan& plan, const BankedShared& shared,
                         const HeadView<Memory>& head, const Segment& segment, int column,
                         int width, int first)
      : plan_(plan),
        shared_(shared),
        head_(head),
        segment_(segment),
        quad_lane_(static_cast<int>(threadIdx.x) % kQuadLanes),
        column_(column),
        width_(width),
        first_(first) {}

  // Lanes of a quad have an entry each, several of them on their way at once.
  __device__ void AddEntries() {
    constexpr int kAtOnce = kReads == 1 ? 4 : 1;
#pragma unroll
    for (int n = 0; n < kReads; ++n) {
      const int read = first_ + n;
      if (read < segment_.reads) {
        const int entries = Token(read) - segment_.base + 1;
#pragma unroll 1
        for (int first = quad_lane_; first < entries; first += kAtOnce * kQuadLanes) {
          float4 values[kAtOnce];
#pragma unroll
          for (int m = 0; m < kAtOnce; ++m) {
            values[m] = Value(segment_.base + Least(first + m * kQuadLanes, entries - 1));
          }
#pragma unroll
          for (int m = 0; m < kAtOnce; ++m) {
            const int e = first + m * kQuadLanes;
            if (e < entries) {
              const int at = read * plan_.span + e;
              AddScaled(shared_.pair_weights[at] * shared_.scores[at], values[m], sums_[n]);
            }
          }
        }
      }
    }
  }

  // What is added from here on is of that bank.
  __device__ void SetBank(int bank) {
#pragma unroll
    for (int n = 0; n < kReads; ++n) {
      weights_[n] = shared_.read_weights[(first_ + n) * plan_.banks + bank];
    }
  }

  // sums[n] += r_n x_n s, from row i of the lane's on.
  template <int kRows>
  __device__ void Add(int i, const float4 (&s)[kRows]) {
#pragma unroll
    for (int m = 0; m < kRows; m += 4) {
      if (i + m < plan_.LaneRows()) {
#pragma unroll
        for (int n = 0; n < kReads; ++n) {
          AddRows(shared_.X(plan_, first_ + n, i + m), weights_[n], s + m, sums_[n]);
        }
      }
    }
  }

  __device__ void Write() const {
#pragma unroll
    for (int n = 0; n < kReads; ++n) {
      const int read = first_ + n;
      if (read < segment_.reads) {
        const float o = SumQuad(sums_[n]);
        const int c = quad_lane_ / 2;
        if (c < width_ && quad_lane_ % 2 == 0) {
          head_.Output(Token(read), read % head_.queries())[column_ + c] = o;
        }
      }
    }
  }

 private:
  __device__ int Token(int read) const {
    return segment_.first + read / head_.queries();
  }

  __device__ float4 Value(int t) const {
    const float* v = t < 0 ? head_.Value(t, 0, column_) : head_.InputValue(t) + column_;
    return make_float4(width_ > 0 ? v[0] : 0, width_ > 1 ? v[1] : 0, width_ > 2 ? v[2] : 0,
                       width_ > 3 ? v[3] : 0);
  }

  const BankedPlan& plan_;
  const BankedShared& shared_;
  const HeadView<Memory>& head_;
  const Segment& segment_;
  const int quad_lane_;
  const int column_;
  const int width_;  // <= 0: the lane has none
  const int first_;
  float weights_[kReads];  // r of the bank
  float sums_[kReads][kQuad] = {};
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_BANKED_READS_CUH_
