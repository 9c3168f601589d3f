// A row's head of VLA's stage before the memory as the block that works on it sees it: where its
// parts lie in the slot and in shared memory. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PRECONDITION_VIEW_CUH_
#define EVENFLOW_KERNELS_CUDA_PRECONDITION_VIEW_CUH_

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/precondition_call.cuh"

namespace evenflow {

// kDim: the number of key channels, a multiple of 8; 0: any.
template <int kDim>
class PreconditionView {
 public:
  static constexpr bool kStaged = IsStaged(kDim);

  // The rows r of a block of tokens, in their ring.
  struct Rows {
    float* ring;
    int first, ring_rows, dim;

    __device__ float* At(int r) const {
      const int at = first + r;
      return ring + (at < ring_rows ? at : at - ring_rows) * dim;
    }
  };

  // What a lane has of what is read: 4 columns, which may lie behind the end.
  struct Columns {
    int first;
    float sums[kPreconditionReads][kQuad] = {};

    __device__ void Add(int read, float factor, const float (&a)[kQuad]) {
      AddScaled(factor, make_float4(a[0], a[1], a[2], a[3]), sums[read]);
    }
  };

  __device__ PreconditionView(const PreconditionCall& call, const Row& row, int head, float* shared)
      : call(call),
        row(row),
        head(head),
        dim(kDim > 0 ? kDim : call.args.preconditioner.key_dim),
        thread(static_cast<int>(threadIdx.x)),
        lane(thread % 32),
        warp(thread / 32),
        warps(static_cast<int>(blockDim.x) / 32),
        layer_(call.args.slots.base + static_cast<size_t>(row.slot) * call.args.slots.slot_bytes +
               call.args.layer_offset),
        shared_(shared) {}

  // How many tokens are in the stored A: of each head its own.
  __device__ int64_t* StoredWord() const {
    return reinterpret_cast<int64_t*>(layer_ + call.layout.committed_tokens) + head;
  }

  __device__ float* PlaneRow(int i) const { return At(call.layout.plane, int64_t{head} * dim + i); }

  __device__ Rows RowsFrom(int64_t p) const {
    const int rows = call.window.ring() * call.rows_per_token;
    return {At(call.layout.rows, int64_t{head} * rows), Entry(p) * call.rows_per_token, rows, dim};
  }

  __device__ float* MappedKey(int64_t p) const {
    return At(call.layout.keys, int64_t{head} * call.window.ring() + Entry(p));
  }

  __device__ float* Sums() const { return At(call.layout.sums, head); }

  // In shared memory, if kStaged: A as it is stored.
  __device__ float* StagedRow(int i) const { return shared_ + i * kDim; }

  // Tells when it is there. Behind all Y.
  __device__ CopyBarrier& Staged() const {
    return *reinterpret_cast<CopyBarrier*>(Y(kPreconditionReads * call.groups));
  }

  // What is read with, 0 or 1; [key_dim], behind it zeros up to size().
  __device__ float* X(int n) const { return shared_ + kPlaneFloats + n * size(); }

  // [group, read][key_dim]: what a group of rows brings to a read; of the first in the end what all
  // do.
  __device__ float* Y(int read) const { return X(2 + read); }

  // Unless kStaged: what a row of the block weighs in what is read with X(n).
  __device__ float* Weights(int n) const {
    return Y(kPreconditionReads * call.groups) + n * call.BlockRows();
  }

  __device__ int size() const { return kDim > 0 ? kDim : call.SharedDim(); }

  __device__ bool v3() const { return mode() == PreconditionMode::kV3; }

  __device__ bool maps_queries() const {
    return mode() == PreconditionMode::kStar || mode() == PreconditionMode::kSym;
  }

  __device__ PreconditionMode mode() const { return call.args.preconditioner.mode; }

  // Calls run(i) for all channels, by the block's threads.
  template <class Do>
  __device__ void ForChannels(const Do& run) const {
    for (int i = thread; i < dim; i += static_cast<int>(blockDim.x)) {
      run(i);
    }
  }

  // Calls run(i, element) for all elements of A as it is before token 0, by the block's threads.
  template <class Do>
  __device__ void ForPlane(const Do& run) const {
    const auto initial = static_cast<float>(1 / call.args.preconditioner.lambda0);
    for (int i = thread; i < dim * dim; i += static_cast<int>(blockDim.x)) {
      run(i, i / dim == i % dim ? initial : 0.0f);
    }
  }

  // By the lanes of a warp.
  template <class Do>
  __device__ void ForLaneChannels(const Do& run) const {
#pragma unroll
    for (int i = lane; i < dim; i += 32) {
      run(i);
    }
  }

  // Every lane of a warp gets a_n . b_n, for several n at once.
  template <int kCount>
  __device__ void Dots(const float* const (&a)[kCount], const float* const (&b)[kCount],
                       float (&sums)[kCount]) const {
#pragma unroll
    for (float& sum : sums) {
      sum = 0;
    }
    ForLaneChannels([&](int i) {
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        sums[n] = fmaf(a[n][i], b[n][i], sums[n]);
      }
    });
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      sums[n] = WarpSum(sums[n]);
    }
  }

  __device__ float Dot(const float* a, const float* b) const {
    float sum[1];
    Dots({a}, {b}, sum);
    return sum[0];
  }

  // y <- y + factor x, by a warp.
  __device__ void AddTo(float* y, float factor, const float* x) const {
    ForLaneChannels([&](int i) { y[i] = fmaf(factor, x[i], y[i]); });
    __syncwarp();
  }

  // Elements [column, column + 4) of a vector in global memory; 0 behind its end. kOnce: no other
  // warp reads it.
  template <bool kOnce = false>
  __device__ void LoadFour(const float* vector, int column, float (&four)[kQuad]) const {
    if constexpr (kDim > 0) {
      const auto* quads = reinterpret_cast<const float4*>(vector);
      float4 quad = make_float4(0, 0, 0, 0);
      if (column < kDim) {
        quad = kOnce ? __ldcg(quads + column / kQuad) : quads[column / kQuad];
      }
      four[0] = quad.x, four[1] = quad.y, four[2] = quad.z, four[3] = quad.w;
    } else {
#pragma unroll
      for (int n = 0; n < kQuad; ++n) {
        four[n] = column + n < dim ? vector[column + n] : 0;
      }
    }
  }

  const PreconditionCall& call;
  const Row row;
  const int head;
  const int dim;
  const int thread, lane, warp, warps;

 private:
  static constexpr int kPlaneFloats = kStaged ? kDim * kDim : 0;

  __device__ float* At(size_t offset, int64_t index) const {
    return reinterpret_cast<float*>(layer_ + offset) + index * dim;
  }

  __device__ int Entry(int64_t p) const {
    return static_cast<int>(p % call.window.ring());
  }

  std::byte* const layer_;
  float* const shared_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PRECONDITION_VIEW_CUH_
