// VLA's stage before the memory: a block takes a row's head through its tokens,
// one after the other, as kernels/cpu/precondition.cc does; formulas are in
// kernels/precondition.h. A is symmetric, so that A x is a product of each row
// with x, one warp a row.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/precondition_call.cuh"
#include "kernels/math/activations.h"
#include "kernels/math/precondition.h"

namespace evenflow {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

class Head {
 public:
  __device__ Head(const PreconditionCall& call, const Row& row, int head, float* shared)
      : call_(call),
        row_(row),
        head_(head),
        mode_(call.args.preconditioner.mode),
        dim_(call.args.preconditioner.key_dim),
        layer_(call.args.slots.base + static_cast<size_t>(row.slot) * call.args.slots.slot_bytes +
               call.args.layer_offset),
        plane_(At(call.layout.plane, int64_t{head} * dim_)),
        thread_(static_cast<int>(threadIdx.x)),
        lane_(thread_ % 32),
        warp_(thread_ / 32) {
    for (int i = 0; i < kReads; ++i) {
      x_[i] = shared + i * dim_;
      y_[i] = shared + (kReads + i) * dim_;
    }
    weights_ = shared + 2 * kReads * dim_;
  }

  // Floats of dynamic shared memory.
  static size_t SharedFloats(const PreconditionCall& call) {
    return static_cast<size_t>(2 * kReads * call.args.preconditioner.key_dim +
                               call.window.commit * call.rows_per_token);
  }

  __device__ void Run() {
    auto* const committed = reinterpret_cast<int64_t*>(layer_ + call_.layout.committed_tokens);
    const int64_t before = row_.position == 0 ? 0 : committed[head_];
    stored_ = before;
    if (row_.position == 0) {
      Begin();
    }
    for (int t = 0; t < row_.tokens; ++t) {
      Commit(row_.position + t);
      Token(t);
    }
    __syncthreads();
    if (thread_ == 0) {
      committed[head_] = stored_;
    }
    if (stored_ > before) {
      AddHealth(part_, call_.health + blockIdx.y);
    }
  }

 private:
  static constexpr int kReads = 2;

  __device__ bool v3() const { return mode_ == PreconditionMode::kV3; }

  __device__ bool maps_queries() const {
    return mode_ == PreconditionMode::kStar || mode_ == PreconditionMode::kSym;
  }

  __device__ float* At(size_t offset, int64_t index) const {
    return reinterpret_cast<float*>(layer_ + offset) + index * dim_;
  }

  __device__ int64_t Entry(int64_t p) const {
    return int64_t{head_} * call_.window.ring() + p % call_.window.ring();
  }

  // Row `r` of those of the tokens from `p` on.
  __device__ float* RowAt(int64_t p, int r) const {
    const int64_t at = p + r / call_.rows_per_token;
    return At(call_.layout.rows, Entry(at) * call_.rows_per_token + r % call_.rows_per_token);
  }

  __device__ float* MappedKey(int64_t p) const { return At(call_.layout.keys, Entry(p)); }

  __device__ float* Sums() const { return At(call_.layout.sums, head_); }

  __device__ float GrowthOf(int64_t tokens) const {
    return Growth(call_.args.preconditioner, tokens);
  }

  // What a runs through all channels for, by the block's threads.
  template <class Do>
  __device__ void ForChannels(const Do& run) const {
    for (int i = thread_; i < dim_; i += kThreads) {
      run(i);
    }
  }

  // a . b, by the whole block.
  __device__ float BlockDot(const float* a, const float* b) const {
    float sum = 0;
    ForChannels([&](int i) { sum = fmaf(a[i], b[i], sum); });
    return BlockSum(sum);
  }

  // a . b, by a warp.
  __device__ float WarpDot(const float* a, const float* b) const {
    float sum = 0;
    for (int i = lane_; i < dim_; i += 32) {
      sum = fmaf(a[i], b[i], sum);
    }
    return WarpSum(sum);
  }

  __device__ void Begin() {
    const auto initial = static_cast<float>(1 / call_.args.preconditioner.lambda0);
    for (int i = thread_; i < dim_ * dim_; i += kThreads) {
      plane_[i] = i / dim_ == i % dim_ ? initial : 0.0f;
    }
    if (v3()) {
      ForChannels([&](int i) { Sums()[i] = 0; });
    }
    __syncthreads();
  }

  // The stored element (i, j), taken through the blocks of tokens [stored,
  // end). The products commute, so A stays symmetric to the bit.
  __device__ float Element(int i, int j, int64_t end) const {
    float a = plane_[i * dim_ + j];
    const int rows = call_.window.commit * call_.rows_per_token;
    for (int64_t block = stored_; block < end; block += call_.window.commit) {
      a = i == j && v3() ? a + Nudges(block, block + call_.window.commit) : a;
      a *= call_.fold_growth;
      for (int r = 0; r < rows; ++r) {
        const float* row = RowAt(block, r);
        a = fmaf(-(call_.fold_root * row[i]), call_.fold_root * row[j], a);
      }
    }
    return a;
  }

  __device__ float SumElement(int i, int64_t end) const {
    float z = Sums()[i];
    for (int64_t p = stored_; p < end; ++p) {
      z += MappedKey(p)[i];
    }
    return z;
  }

  // Stores what may be stored with the token at `p`, before its rows take the place of old ones.
  __device__ void Commit(int64_t p) {
    const int64_t end = call_.window.Stored(p);
    __syncthreads();
    if (end <= stored_) {
      return;
    }
    part_ = {};
    for (int i = thread_; i < dim_ * dim_; i += kThreads) {
      plane_[i] = Element(i / dim_, i % dim_, end);
      part_.Observe(plane_[i]);
    }
    if (v3()) {
      ForChannels([&](int i) { Sums()[i] = SumElement(i, end); });
    }
    stored_ = end;
    __syncthreads();
  }

  // y_[n] = A x_[n] as of the block's start, for n < count.
  __device__ void ReadBase(int64_t block, int count) {
    for (int i = warp_; i < dim_; i += kWarps) {
      float sums[kReads] = {};
      for (int j = lane_; j < dim_; j += 32) {
        const float a = Element(i, j, block);
        for (int n = 0; n < count; ++n) {
          sums[n] = fmaf(a, x_[n][j], sums[n]);
        }
      }
      for (int n = 0; n < count; ++n) {
        const float y = WarpSum(sums[n]);
        if (lane_ == 0) {
          y_[n][i] = y;
        }
      }
    }
    __syncthreads();
  }

  // y <- y - sum_j r_j weights_j
  __device__ void SubtractRows(int64_t block, int rows, float* y) const {
    __syncthreads();
    ForChannels([&](int i) {
      float sum = y[i];
      for (int r = 0; r < rows; ++r) {
        sum = fmaf(-weights_[r], RowAt(block, r)[i], sum);
      }
      y[i] = sum;
    });
    __syncthreads();
  }

  // y, which is A_0 x, becomes A x / m with the first `rows` rows of the block.
  __device__ void Correct(int64_t block, int rows, const float* x, float* y) const {
    for (int r = warp_; r < rows; r += kWarps) {
      const float weight = WarpDot(RowAt(block, r), x);
      if (lane_ == 0) {
        weights_[r] = weight;
      }
    }
    SubtractRows(block, rows, y);
  }

  // The row of x with y = A x / m; returns what makes A x, with x in A, of y.
  __device__ float Append(float* row, const float* y, float x_y, float growth) const {
    const float denominator = Denominator(mode_, growth, x_y);
    const float factor = sqrtf(growth / denominator);
    ForChannels([&](int i) { row[i] = factor * y[i]; });
    __syncthreads();
    return growth / denominator;
  }

  // Reads of the token at `at` ([token, heads]), into x_; k^ goes to `key`.
  __device__ void Prepare(int64_t p, int64_t at) {
    const float* k = call_.args.k + at * dim_;
    float* const q = call_.args.q + at * dim_;
    float* const key = x_[v3() ? 1 : 0];
    if (v3()) {
      const float* weight = call_.args.u_weight + int64_t{head_} * dim_ * dim_;
      for (int i = warp_; i < dim_; i += kWarps) {
        const float u = WarpDot(weight + int64_t{i} * dim_, k);
        if (lane_ == 0) {
          x_[0][i] = u;
        }
      }
      ForChannels([&](int i) {
        MappedKey(p)[i] = Activate(Activation::kElu1, k[i]);
        q[i] = Activate(Activation::kElu1, q[i]);
      });
      __syncthreads();
      const float norm = fmaxf(sqrtf(BlockDot(x_[0], x_[0])), kMinKeyNorm);
      const float factor = 1 / (norm * sqrtf(static_cast<float>(dim_)));
      ForChannels([&](int i) { x_[0][i] *= factor; });
      k = MappedKey(p);
    } else if (maps_queries()) {
      ForChannels([&](int i) { x_[1][i] = q[i]; });
    }
    const float factor = 1 / fmaxf(sqrtf(BlockDot(k, k)), kMinKeyNorm);
    ForChannels([&](int i) { key[i] = factor * k[i]; });
    __syncthreads();
  }

  __device__ void Token(int t) {
    const int64_t p = row_.position + t;
    const int64_t block = call_.window.Block(p);
    const int64_t at = int64_t{row_.first_token + t} * call_.args.preconditioner.heads + head_;
    const float growth = GrowthOf(p - block + 1);
    Prepare(p, at);
    ReadBase(block, v3() || maps_queries() ? 2 : 1);
    int rows = static_cast<int>(p - block) * call_.rows_per_token;
    if (call_.rows_per_token == 2) {
      Leak(p, block, growth, at);
      ++rows;
    } else if (call_.entries == 2) {
      ForChannels([&](int i) { call_.args.w[2 * at * dim_ + i] = 0; });
      ForChannels([&](int i) { call_.args.e[2 * at * dim_ + i] = 0; });
    }
    Correct(block, rows, x_[0], y_[0]);
    if (v3()) {
      AddScaled(Nudges(block, p), x_[0], y_[0]);
    }
    const float factor = Append(RowAt(block, rows), y_[0], BlockDot(x_[0], y_[0]), growth);
    ++rows;
    if (v3()) {
      Correct(block, rows, x_[1], y_[1]);
      AddScaled(Nudges(block, p + 1), x_[1], y_[1]);
      Write(at, x_[1], y_[1], 1);
      NormaliseQuery(p, block, at);
      return;
    }
    Write(at, x_[0], y_[0], factor);
    if (maps_queries()) {
      Correct(block, rows, x_[1], y_[1]);
      const float norm = growth * sqrtf(BlockDot(y_[1], y_[1]));
      const float scale = growth / fmaxf(norm, kMinDirectionNorm);
      ForChannels([&](int i) { call_.args.q[at * dim_ + i] = scale * y_[1][i]; });
    }
  }

  __device__ void Leak(int64_t p, int64_t block, float growth, int64_t at) const {
    const int direction = static_cast<int>(p % dim_);
    const int before = static_cast<int>(p - block) * call_.rows_per_token;
    float* const row = RowAt(block, before);
    for (int r = thread_; r < before; r += kThreads) {
      weights_[r] = call_.leak * RowAt(block, r)[direction];
    }
    ForChannels([&](int i) { row[i] = call_.leak * Element(direction, i, block); });
    SubtractRows(block, before, row);
    const float along = call_.leak * row[direction];
    __syncthreads();
    const float factor = Append(row, row, along, growth);
    if (mode_ == PreconditionMode::kRls) {
      float* const w = call_.args.w + 2 * at * dim_;
      float* const e = call_.args.e + 2 * at * dim_;
      const float root = sqrtf(factor);  // the row is this times y
      ForChannels([&](int i) { w[i] = root * row[i]; });
      ForChannels([&](int i) { e[i] = i == direction ? call_.leak : 0.0f; });
    }
  }

  // y <- y + factor x
  __device__ void AddScaled(float factor, const float* x, float* y) const {
    ForChannels([&](int i) { y[i] = fmaf(factor, x[i], y[i]); });
    __syncthreads();
  }

  // The entry that writes the value; A k^ = factor y.
  __device__ void Write(int64_t at, const float* key, const float* y, float factor) const {
    const float norm = factor * sqrtf(BlockDot(y, y));
    const float along = factor * BlockDot(key, y);
    const float divisor = mode_ == PreconditionMode::kRls     ? 1.0f
                          : mode_ == PreconditionMode::kExact ? fmaxf(along, kMinDirectionNorm)
                                                              : fmaxf(norm, kMinDirectionNorm);
    const int64_t entry = (at + 1) * call_.entries - 1;
    ForChannels([&](int i) { call_.args.w[entry * dim_ + i] = factor / divisor * y[i]; });
    if (!maps_queries()) {
      ForChannels([&](int i) { call_.args.e[entry * dim_ + i] = key[i]; });
    }
    if (thread_ == 0 && mode_ == PreconditionMode::kStar) {
      call_.args.beta[at] *= along / divisor;
    } else if (thread_ == 0 && v3()) {
      call_.args.beta[at] = 1;
    }
  }

  __device__ void NormaliseQuery(int64_t p, int64_t block, int64_t at) const {
    float* const q = call_.args.q + at * dim_;
    float part = 0;
    ForChannels([&](int i) {
      part = fmaf(SumElement(i, block), q[i], part);
      for (int64_t j = block; j <= p; ++j) {
        part = fmaf(MappedKey(j)[i], q[i], part);
      }
    });
    const float factor = 1 / fmaxf(BlockSum(part), kMinNormaliser);
    ForChannels([&](int i) { q[i] *= factor; });
  }

  const PreconditionCall& call_;
  const Row row_;
  const int head_;
  const PreconditionMode mode_;
  const int dim_;
  std::byte* const layer_;
  float* const plane_;
  const int thread_, lane_, warp_;
  int64_t stored_ = 0;
  HealthPart part_;   // of what was stored last
  float* x_[kReads];  // in shared memory
  float* y_[kReads];
  float* weights_;
};

__global__ void PreconditionKernel(const __grid_constant__ PreconditionCall call) {
  extern __shared__ float shared[];
  AwaitInputs();
  const Row row = call.rows[blockIdx.y];
  if (row.tokens > 0) {
    Head(call, row, static_cast<int>(blockIdx.x), shared).Run();
  }
}

}  // namespace

void CudaPrecondition(const PreconditionArgs& args, const CudaStep& step) {
  const Preconditioner& of = args.preconditioner;
  PreconditionCall call;
  call.args = args;
  call.layout = LayoutOf(of, args.window);
  call.window = WindowOf(of, args.window);
  call.rows_per_token = RowsPerToken(of);
  call.entries = EntryCount(MemoryOf(of.mode));
  call.leak = LeakSize(of);
  call.fold_growth = Growth(of, call.window.commit);
  call.fold_root = std::sqrt(call.fold_growth);
  call.rows = step.rows;
  call.health = step.health + int64_t{args.memory_layer} * step.health_stride;
  Launch(PreconditionKernel,
         {dim3(static_cast<unsigned>(of.heads), static_cast<unsigned>(step.row_count)), kThreads,
          sizeof(float) * Head::SharedFloats(call)},
         step.stream, call);
}

}  // namespace evenflow
