// What a block of the kernel that advances banked memories (advance_banked.cu) works on, and where
// its shared memory has it. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_BANKED_PLAN_CUH_
#define EVENFLOW_KERNELS_CUDA_BANKED_PLAN_CUH_

#include <algorithm>

#include "kernels/cuda/advance.cuh"

namespace evenflow {

inline constexpr int kMaxReads = 8;  // that share a pass over the banks

// Tokens that are read together, by distance from the row's first.
struct Segment {
  int first = 0;
  int base = 0;                              // the banks that they read hold all before
  int stored = 0, stored_after = 0;          // so do the stored banks, before and after
  int64_t base_block = 0, stored_block = 0;  // blocks of positions up to there
  int reads = 0;                             // queries of all its tokens

  // Whether the block [stored, base) waits to be taken in. There is never more than one.
  __device__ bool pending() const { return stored < base; }
};

// Sizes, of a block unless a name says otherwise.
struct BankedPlan {
  int dim;     // key channels
  int reads;   // at a time
  int span;    // entries that a token reads
  int banks;   // of a head
  int commit;  // tokens of a block of positions
  bool erases;

  template <class Memory>
  static BankedPlan Of(const AdvanceArgs& args) {
    const MemoryShape& shape = args.shape;
    const int queries = shape.query_heads > shape.heads ? shape.query_heads / shape.heads : 1;
    return {shape.key_dim,
            std::max(kMaxReads, (queries + kMaxReads - 1) / kMaxReads * kMaxReads),
            args.window.commit + args.window.lag,
            BankCount(args.memory, shape, args.window),
            args.window.commit,
            Traits<Memory>::kErases};
  }

  __host__ __device__ int Rows() const { return (dim + kQuadLanes - 1) / kQuadLanes; }

  // Channels of a query or a key lie by the lane of a quad that has them, so that it gets four at a
  // time; four more keep lanes out of each other's way. Those beyond the last are zero.
  __host__ __device__ int LaneRows() const { return (Rows() + 3) / 4 * 4; }

  __host__ __device__ int LaneStride() const { return LaneRows() + 4; }

  __host__ __device__ int KeyStride() const { return kQuadLanes * LaneStride(); }

  __host__ __device__ int PlaceOf(int r) const {
    return r % kQuadLanes * LaneStride() + r / kQuadLanes;
  }

  __host__ __device__ int WarpFloats() const {
    const int values = kWarpQuads * commit;
    return kQuad * (erases ? 32 * LaneRows() + 2 * values : values);
  }

  __host__ __device__ int BlockFloats() const {
    return reads * (KeyStride() + 2 * span + banks) + commit * (KeyStride() + banks) + banks +
           (erases ? commit * (commit + 2) : 0);
  }

  size_t Bytes(int warps) const {
    return sizeof(float) * static_cast<size_t>(BlockFloats() + warps * WarpFloats());
  }
};

// A thread's view of it.
struct BankedShared {
  float* x;             // [read, KeyStride]: the query; led back through the entries, if they erase
  float* scores;        // [read, entry from the base on]: s_j
  float* pair_weights;  // likewise: W_ij
  float* read_weights;  // [read, bank]: r
  // Of the block that waits.
  float* keys;           // [token, KeyStride]
  float* entry_weights;  // [token, bank]: c
  float* decays;         // [bank]: d
  float4* values;        // [token], of the thread's quad
  // If entries erase, of the block that waits.
  float* gram;       // [token j, token i]: -beta_j e^{l_j - l_i} (k_i . k_j), i < j
  float* scales;     // [token]: -beta e^l
  float* strengths;  // [token]: beta
  float4* work;      // [32 i]: row i of those that the lane has of a bank
  float4* erased;    // [token]: u, of the thread's quad

  __device__ BankedShared(const BankedPlan& plan, float* shared) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
    auto* warp = reinterpret_cast<float4*>(shared + thread / 32 * plan.WarpFloats());
    const int quad = lane / kQuadLanes * plan.commit;
    values = warp + quad;
    erased = values + kWarpQuads * plan.commit;
    work = warp + 2 * kWarpQuads * plan.commit + lane;
    x = shared + static_cast<int>(blockDim.x) / 32 * plan.WarpFloats();
    keys = x + plan.reads * plan.KeyStride();
    scores = keys + plan.commit * plan.KeyStride();
    pair_weights = scores + plan.reads * plan.span;
    read_weights = pair_weights + plan.reads * plan.span;
    entry_weights = read_weights + plan.reads * plan.banks;
    decays = entry_weights + plan.commit * plan.banks;
    gram = decays + plan.banks;
    scales = gram + plan.commit * plan.commit;
    strengths = scales + plan.commit;
  }

  // Rows i to i + 3 of those that the thread has of x and of a key, i being a multiple of 4.
  __device__ float4 X(const BankedPlan& plan, int read, int i) const {
    return Four(x + read * plan.KeyStride(), plan, i);
  }

  __device__ float4 Key(const BankedPlan& plan, int token, int i) const {
    return Four(keys + token * plan.KeyStride(), plan, i);
  }

 private:
  __device__ static float4 Four(const float* channels, const BankedPlan& plan, int i) {
    const int lane = static_cast<int>(threadIdx.x) % kQuadLanes;
    return *reinterpret_cast<const float4*>(channels + lane * plan.LaneStride() + i);
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_BANKED_PLAN_CUH_
