// A row's head of VLA's stage before the memory, by one block: formulas are in
// kernels/precondition.h. What a token reads is made and multiplied with A by all warps; what
// depends on one product after the other is warp 0's. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_PRECONDITION_HEAD_CUH_
#define EVENFLOW_KERNELS_CUDA_PRECONDITION_HEAD_CUH_

#include <type_traits>

#include "kernels/cuda/precondition_staged.cuh"
#include "kernels/cuda/precondition_streamed.cuh"
#include "kernels/math/activations.h"

namespace evenflow {

template <int kDim>
class PreconditionHead {
 public:
  using View = PreconditionView<kDim>;
  using Plane = std::conditional_t<View::kStaged, StagedPlane<kDim>, StreamedPlane<kDim>>;

  __device__ explicit PreconditionHead(const View& view)
      : view_(view), call_(view.call), dim_(view.dim), plane_(view) {}

  __device__ void Run() {
    if (view_.row.position == 0) {
      Begin();
    }
    for (int t = 0; t < view_.row.tokens; ++t) {
      Token(t);
    }
    plane_.Finish();
  }

 private:
  static constexpr int kLeak = PreconditionReads<kDim>::kLeak;

  // A token: where it is and what its rows need.
  struct At {
    int64_t position, block;
    int64_t index;  // [token, heads]
    int direction;  // of the leak; -1: none
    float growth;   // warp 0's
  };

  // Before token 0.
  __device__ void Begin() const {
    plane_.Begin();
    if (view_.v3()) {
      view_.ForChannels([&](int i) { view_.Sums()[i] = 0; });
    }
    __syncthreads();
  }

  __device__ void Token(int t) {
    At at;
    at.position = view_.row.position + t;
    at.block = call_.window.Block(at.position);
    at.index = int64_t{view_.row.first_token + t} * call_.args.preconditioner.heads + view_.head;
    at.direction = call_.rows_per_token == 2 ? static_cast<int>(at.position % dim_) : -1;
    at.growth = view_.warp == 0 ? Growth(call_.args.preconditioner, at.position - at.block + 1) : 0;
    Prepare(at);
    plane_.Read(at.position, static_cast<int>(at.position - at.block) * call_.rows_per_token,
                at.direction);
    if (view_.warp == 0) {
      Append(at);
    }
    __syncthreads();
  }

  // kV3: takes into the stored z what may be stored with the token at `p`, before its key takes the
  // place of an old one.
  __device__ void CommitSums(int64_t p) const {
    const int64_t end = call_.window.Stored(p);
    if (end > plane_.stored()) {
      view_.ForChannels([&](int i) { view_.Sums()[i] = SumElement(i, end); });
    }
  }

  // z's element i as of the tokens before `end`.
  __device__ float SumElement(int i, int64_t end) const {
    float z = view_.Sums()[i];
    for (int64_t p = plane_.stored(); p < end; ++p) {
      z += view_.MappedKey(p)[i];
    }
    return z;
  }

  // Makes what the token reads with: X(0) belongs to the row that it appends. v3 maps keys and
  // queries first.
  __device__ void Prepare(const At& at) const {
    const float* k = call_.args.k + at.index * dim_;
    float* const q = call_.args.q + at.index * dim_;
    for (int i = dim_ + view_.thread; i < view_.size(); i += 32 * view_.warps) {
      view_.X(0)[i] = view_.X(1)[i] = 0;
    }
    if (view_.v3()) {
      CommitSums(at.position);
      k = MapKey(at, k);
      view_.ForChannels([&](int i) { q[i] = Activate(Activation::kElu1, q[i]); });
    }
    const float query = view_.thread < dim_ ? q[view_.thread] : 0;  // on its way beside the key
    const float factor = 1 / fmaxf(sqrtf(view_.Dot(k, k)), kMinKeyNorm);
    view_.ForChannels([&](int i) {
      if (view_.v3()) {
        view_.X(1)[i] = factor * k[i];
      } else {
        view_.X(0)[i] = factor * k[i];
        view_.X(1)[i] = view_.maps_queries() ? (i == view_.thread ? query : q[i]) : 0;
      }
    });
    __syncthreads();
  }

  // X(0) becomes u; returns f(k), in its ring.
  __device__ const float* MapKey(const At& at, const float* k) const {
    float* const u = view_.X(0);
    float* const mapped = view_.MappedKey(at.position);
    const float* weight = call_.args.u_weight + int64_t{view_.head} * dim_ * dim_;
    for (int i = view_.warp; i < dim_; i += view_.warps) {
      const float sum = view_.Dot(weight + int64_t{i} * dim_, k);
      if (view_.lane == 0) {
        u[i] = sum;
      }
    }
    view_.ForChannels([&](int i) { mapped[i] = Activate(Activation::kElu1, k[i]); });
    __syncthreads();
    const float norm = fmaxf(sqrtf(view_.Dot(u, u)), kMinKeyNorm);
    const float factor = 1 / (norm * sqrtf(static_cast<float>(dim_)));
    __syncthreads();
    view_.ForChannels([&](int i) { u[i] *= factor; });
    return mapped;
  }

  // From here on warp 0. Y(read) is A x / m with the rows before the token's, which are appended.
  __device__ void Append(const At& at) const {
    const auto own = view_.RowsFrom(at.position);
    const float *const x0 = view_.X(0), *const x1 = view_.X(1);
    float *const leak = view_.Y(kLeak), *const y0 = view_.Y(1), *const y1 = view_.Y(2);
    float leak_factor = 0;
    if (at.direction >= 0) {
      leak_factor = AppendRow(at, own.At(0), leak, call_.leak * leak[at.direction]);
      float dots[2];
      view_.Dots({leak, leak}, {x0, x1}, dots);
      view_.AddTo(y0, -leak_factor * dots[0], leak);
      view_.AddTo(y1, -leak_factor * dots[1], leak);
    }
    if (call_.entries == 2) {
      WriteLeak(at, leak_factor);
    }
    if (view_.v3()) {
      view_.AddTo(y0, Nudges(at.block, at.position), x0);
    }
    float dots[3];
    view_.Dots({x0, y0, x1}, {y0, y0, y0}, dots);
    const float factor = AppendRow(at, own.At(call_.rows_per_token - 1), y0, dots[0]);
    view_.AddTo(y1, -factor * dots[2], y0);
    if (view_.v3()) {
      view_.AddTo(y1, Nudges(at.block, at.position + 1), x1);
      float of_key[2];
      view_.Dots({x1, y1}, {y1, y1}, of_key);
      Write(at, x1, y1, of_key[0], of_key[1]);
      NormaliseQuery(at);
      return;
    }
    view_.ForLaneChannels([&](int i) { y0[i] *= factor; });
    Write(at, x0, y0, factor * dots[0], factor * factor * dots[1]);
    if (view_.maps_queries()) {
      const float norm = at.growth * sqrtf(view_.Dot(y1, y1));
      const float scale = at.growth / fmaxf(norm, kMinDirectionNorm);
      view_.ForLaneChannels([&](int i) { call_.args.q[at.index * dim_ + i] = scale * y1[i]; });
    }
  }

  // Writes the row of x, given y = A x / m and x . y; returns what makes A x, with x in A, of y.
  __device__ float AppendRow(const At& at, float* row, const float* y, float x_y) const {
    const float factor = at.growth / Denominator(view_.mode(), at.growth, x_y);
    const float root = sqrtf(factor);
    view_.ForLaneChannels([&](int i) { row[i] = root * y[i]; });
    return factor;
  }

  // The leak's entry: zeros without one.
  __device__ void WriteLeak(const At& at, float factor) const {
    float* const w = call_.args.w + 2 * at.index * dim_;
    float* const e = call_.args.e + 2 * at.index * dim_;
    view_.ForLaneChannels([&](int i) {
      w[i] = at.direction >= 0 ? factor * view_.Y(kLeak)[i] : 0;
      e[i] = i == at.direction ? call_.leak : 0.0f;
    });
  }

  // The entry that writes the value, a = A k^, with k^ . a and a . a.
  __device__ void Write(const At& at, const float* key, const float* a, float along,
                        float square) const {
    const float norm = sqrtf(square);
    const PreconditionMode mode = view_.mode();
    const float divisor = mode == PreconditionMode::kRls     ? 1.0f
                          : mode == PreconditionMode::kExact ? fmaxf(along, kMinDirectionNorm)
                                                             : fmaxf(norm, kMinDirectionNorm);
    const int64_t entry = ((at.index + 1) * call_.entries - 1) * dim_;
    view_.ForLaneChannels([&](int i) {
      call_.args.w[entry + i] = a[i] / divisor;
      if (!view_.maps_queries()) {
        call_.args.e[entry + i] = key[i];
      }
    });
    if (view_.lane == 0 && mode == PreconditionMode::kStar) {
      call_.args.beta[at.index] *= along / divisor;
    } else if (view_.lane == 0 && view_.v3()) {
      call_.args.beta[at.index] = 1;
    }
  }

  __device__ void NormaliseQuery(const At& at) const {
    float* const q = call_.args.q + at.index * dim_;
    float part = 0;
    view_.ForLaneChannels([&](int i) { part = fmaf(SumElement(i, at.position + 1), q[i], part); });
    const float factor = 1 / fmaxf(WarpSum(part), kMinNormaliser);
    view_.ForLaneChannels([&](int i) { q[i] *= factor; });
  }

  const View& view_;
  const PreconditionCall& call_;
  const int dim_;
  Plane plane_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PRECONDITION_HEAD_CUH_
