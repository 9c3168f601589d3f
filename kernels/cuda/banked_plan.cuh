// What a block of the kernel that advances banked memories (advance_banked.cu) works on, and where
// its shared memory has it. For .cu files.
#ifndef EVENFLOW_KERNELS_CUDA_BANKED_PLAN_CUH_
#define EVENFLOW_KERNELS_CUDA_BANKED_PLAN_CUH_

#include <algorithm>

#include "kernels/cuda/advance.cuh"

namespace evenflow {

inline constexpr int kMaxReads = 8;  // that share a pass over the banks
inline constexpr int kGroup = 16;    // entries that are taken in by one product

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

// Rows of one token are prepared by a kernel of their own, into a table for each head: this, and
// what BankedShared has of reads.
struct alignas(16) BankedHeader {
  Row row;
  Segment segment;
  uint64_t live = 0;  // banks that hold anything, a bit each
};

// Sizes, of a block unless a name says otherwise.
struct BankedPlan {
  int dim;     // key channels
  int reads;   // at a time
  int span;    // entries that a token reads
  int banks;   // of a head
  int commit;  // tokens of a block of positions
  bool erases;

  // is_single: rows have one token, and tokens one query of each state.
  template <class Memory>
  static BankedPlan Of(const AdvanceArgs& args, bool is_single) {
    const MemoryShape& shape = args.shape;
    const int queries = shape.query_heads > shape.heads ? shape.query_heads / shape.heads : 1;
    return {shape.key_dim,
            is_single ? 1 : (queries + kMaxReads - 1) / kMaxReads * kMaxReads,
            args.window.commit + args.window.lag,
            BankCount(args.memory, shape, args.window),
            args.window.commit,
            Traits<Memory>::kErases};
  }

  __host__ __device__ int Rows() const { return (dim + kQuadLanes - 1) / kQuadLanes; }

  // Channels of a query lie by the lane of a quad that has them, so that it gets four at a
  // time; four more keep lanes out of each other's way. Those beyond the last are zero.
  __host__ __device__ int LaneRows() const { return (Rows() + 3) / 4 * 4; }

  __host__ __device__ int LaneStride() const { return LaneRows() + 4; }

  __host__ __device__ int KeyStride() const { return kQuadLanes * LaneStride(); }

  __host__ __device__ int PlaceOf(int r) const {
    return r % kQuadLanes * LaneStride() + r / kQuadLanes;
  }

  // A block that waits is taken in by groups of 16 entries, those beyond the last being zero.
  __host__ __device__ int Groups() const { return (commit + kGroup - 1) / kGroup; }

  // From quad to quad of a warp's tile of a bank, in which LaneRows() octets of rows lie.
  __host__ __device__ int TileStride() const { return kQuad * kQuadLanes * LaneRows() + 4; }

  // Of a group's keys as operands: a float4 a lane and octet of rows.
  __host__ __device__ int OperandFloats() const { return 4 * 32 * LaneRows(); }

  // Of a block's entries, 16 columns of each.
  __host__ __device__ int ValueFloats() const { return Groups() * kGroup * kWarpColumns; }

  __host__ __device__ int TileFloats() const {
    const int tile = kWarpQuads * TileStride();
    return erases && ValueFloats() > tile ? ValueFloats() : tile;
  }

  __host__ __device__ int WarpFloats() const {
    return TileFloats() + ValueFloats() * (erases ? 2 : 1);
  }

  __host__ __device__ int BlockFloats() const {
    const int entries = Groups() * kGroup;
    return WholeFours(Groups() * OperandFloats() * (erases ? 2 : 1) + commit * banks + banks +
                      (erases ? entries * (entries + 1) + commit * (commit + 2) : 0));
  }

  // Of all reads together.
  __host__ __device__ int ReadFloats() const {
    return WholeFours(reads * (KeyStride() + 2 * span + banks));
  }

  // Of a row's head.
  __host__ __device__ int TableFloats() const {
    return static_cast<int>(sizeof(BankedHeader) / sizeof(float)) + ReadFloats();
  }

  size_t Bytes(int warps) const {
    return sizeof(float) * static_cast<size_t>(ReadFloats() + BlockFloats() + warps * WarpFloats());
  }

 private:
  __host__ __device__ static int WholeFours(int floats) { return (floats + 3) / 4 * 4; }
};

// A thread's view of it.
struct BankedShared {
  float* x;             // [read, KeyStride]: the query; led back through the entries, if they erase
  float* scores;        // [read, entry from the base on]: s_j
  float* pair_weights;  // likewise: W_ij
  float* read_weights;  // [read, bank]: r
  // Of the block that waits, in groups of 16 entries.
  float4* keys;          // [group][octet of rows s][lane 4 g + t]: k_j[8 s + g] of entries j = 2 t,
                         // 2 t + 1, 2 t + 8, 2 t + 9
  float* entry_weights;  // [token, bank]: c
  float* decays;         // [bank]: d
  float4* values;        // [group][8 entries][lane]: columns 2 g, 2 g + 1 of the warp's of entry
                         // 2 t, then of 2 t + 1: of v, or of what follows from it
  float* tile;           // [quad of the warp, row, 4]: of a bank
  // If entries erase, of the block that waits.
  float4* erasing;   // [group][s][lane]: k'_j[8 s + 2 t, 8 s + 2 t + 1] of j = g, then of g + 8
  float4* erased;    // as values: u
  float* inverse;    // [entry j, entry i; one more]: T_ji
  float* gram;       // [token j, token i]: -beta_j e^{l_j - l_i} (k_i . k_j), i < j
  float* growths;    // [token]: -e^l
  float* strengths;  // [token]: beta

  // Parts of ReadFloats(), BlockFloats() and, of the thread's warp, WarpFloats().
  __device__ BankedShared(const BankedPlan& plan, float* reads, float* block, float* warp) {
    const int entries = plan.Groups() * kGroup, operands = plan.Groups() * plan.OperandFloats();
    x = reads;
    scores = x + plan.reads * plan.KeyStride();
    pair_weights = scores + plan.reads * plan.span;
    read_weights = pair_weights + plan.reads * plan.span;
    keys = reinterpret_cast<float4*>(block);
    erasing = reinterpret_cast<float4*>(block + operands);
    entry_weights = block + (plan.erases ? 2 : 1) * operands;
    decays = entry_weights + plan.commit * plan.banks;
    inverse = decays + plan.banks;
    gram = inverse + entries * (entries + 1);
    growths = gram + plan.commit * plan.commit;
    strengths = growths + plan.commit;
    tile = warp;
    values = reinterpret_cast<float4*>(tile + plan.TileFloats());
    erased = values + plan.ValueFloats() / 4;
  }

  // Rows i to i + 3 of those that the thread has of x, i being a multiple of 4.
  __device__ float4 X(const BankedPlan& plan, int read, int i) const {
    const int lane = static_cast<int>(threadIdx.x) % kQuadLanes;
    return *reinterpret_cast<const float4*>(x + read * plan.KeyStride() + lane * plan.LaneStride() +
                                            i);
  }

  // Row i of those that the thread has of the tile.
  __device__ float4* Row(const BankedPlan& plan, int i) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return reinterpret_cast<float4*>(tile + lane / kQuadLanes * plan.TileStride()) +
           lane % kQuadLanes + i * kQuadLanes;
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_BANKED_PLAN_CUH_
