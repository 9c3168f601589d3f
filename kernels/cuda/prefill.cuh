// Prompts in chunks of up to 64 entries on tensor cores: what the two kernels share. For .cu files;
// see kernels/cuda/README.md.
//
// Every entry of a token is a row of its own: it erases by e_i (0: nothing), writes by w_i, has the
// value v_i or 0 and the token's decay; only the last one has the token's query. A chunk ends at a
// multiple of 64 entries of the position, or with its row. The first begins where the stored state
// ends, so its first entries may be those of earlier steps, whose u are known. For a chunk that
// begins with state S, and with V, Q, U the rows v_j, q_j, u_j of its entries:
//     U = T (V - K S)                 T = (1 + M)^-1 diag(beta), K = rows e^{L_i} e_i, where it
//                                     erases; U = V where not
//     O = Q' S + A U                  Q' = rows e^{L_i} q_i
//     S <- D_s S + F_s U_s            for a segment s: up to what is stored if that is in the
//                                     chunk, and the rest
// with M_ij = beta_i (w_j e^{L_i - L_j}) . e_i (j < i), A_ij = (w_j e^{L_i - L_j}) . q_i (j <= i),
// L the cumulative log decay since the chunk's start. WeighPrompts
// computes K, T, Q', A, F and D of all chunks at once; PassPrompts goes from chunk to chunk.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_CUH_

#include "kernels/cuda/advance.cuh"
#include "kernels/cuda/mma.cuh"

namespace evenflow {

inline constexpr int kChunk = 64;  // entries
inline constexpr int kSlice = 64;  // keys that are weighed together
inline constexpr int kMma = 16;    // entries or keys of a product's tile
inline constexpr int kMmas = kChunk / kMma;
inline constexpr int kSegments = 2;          // of a chunk: up to what is stored, and the rest
inline constexpr int kMaxPromptRows = 32;    // of a launch
inline constexpr int kMinPromptTokens = 16;  // of a row; shorter ones go token by token

// The rows of a launch that are read in chunks.
struct PromptRows {
  int count = 0;
  int row[kMaxPromptRows] = {};
  int first_item[kMaxPromptRows + 1] = {};  // an item has room for a chunk's weights

  __host__ __device__ int operator[](unsigned i) const { return row[i]; }
};

// What WeighPrompts leaves of a chunk and a head, in bytes: stages in the order in which
// PassPrompts reads them. A stage is 64 x 64 numbers, as 4 slabs of 4 tiles (kernels/cuda/mma.cuh)
// for one step of 16 of a product's inner dimension each.
//     [K, a stage for 64 keys][T]   where it erases
//     ([Q', a stage for 64 keys][A]) for each query
//     [F, a stage for 64 keys]      a slab for 16 entries; then D [2 segments][64 keys] fp32
struct WeightLayout {
  int slices;  // of 64 keys
  int queries;
  bool erases;
  int parts;
  int entry_shift;   // a token has 2^entry_shift entries
  uint32_t writing;  // bit n: its entry n writes a value

  __host__ __device__ int tile() const { return parts * kTileBytes; }

  __host__ __device__ int slab() const { return kMmas * tile(); }

  __host__ __device__ int stage() const { return kMmas * slab(); }

  __host__ __device__ int fold_stage() const {
    return stage() + kSegments * kSlice * static_cast<int>(sizeof(float));
  }

  __host__ __device__ int reads() const { return queries + (erases ? 1 : 0); }

  __host__ __device__ int plain_stages() const { return reads() * (slices + 1); }

  // Where read r's stages begin; that of the erase comes first.
  __host__ __device__ int read(int r) const { return r * (slices + 1) * stage(); }

  __host__ __device__ int folds() const { return plain_stages() * stage(); }

  __host__ __device__ int bytes() const { return folds() + slices * fold_stage(); }
};

struct PromptCall {
  AdvanceCall advance;
  PromptRows rows;
  WeightLayout layout;
  std::byte* weights = nullptr;  // device, [item, head]
  bool wide = false;             // tokens and entries lie on 16 bytes, in whole pieces of that size

  __device__ std::byte* Weights(int item, int head) const {
    return weights + (int64_t{item} * advance.args.shape.heads + head) * layout.bytes();
  }
};

// The chunks of a row, in distances from its first token.
struct Chunks {
  int size;    // tokens
  int stored;  // <= 0
  int tokens;
  int grid;          // a multiple of a chunk's tokens of the position, <= stored
  int stored_after;  // >= stored

  __device__ Chunks(const PromptCall& call, const Row& row)
      : Chunks(call, row, call.advance.Stored(row)) {}

  __device__ int count() const { return (tokens - grid + size - 1) / size; }

  __device__ int begin(int chunk) const { return chunk == 0 ? stored : grid + chunk * size; }

  __device__ int end(int chunk) const { return Least(tokens, grid + (chunk + 1) * size); }

  // How many of a chunk's tokens are in the state that is stored; 0: it is not stored there.
  __device__ int store(int chunk) const {
    return stored_after > begin(chunk) && stored_after <= end(chunk) ? stored_after - begin(chunk)
                                                                     : 0;
  }

 private:
  __device__ Chunks(const PromptCall& call, const Row& row, int64_t stored_tokens)
      : size(kChunk >> call.layout.entry_shift),
        stored(static_cast<int>(stored_tokens - row.position)),
        tokens(row.tokens),
        grid(static_cast<int>(stored_tokens / size * size - row.position)),
        stored_after(
            static_cast<int>(call.advance.StoredAfter(row, stored_tokens) - row.position)) {}
};

// Chunks that a row may have, whatever is stored of it.
inline int MostChunks(int tokens, const Window& window, const WeightLayout& layout) {
  return ((tokens + window.ring()) << layout.entry_shift) / kChunk + 2;
}

// Fast: operands in bf16. Exact: in three bf16 that make up an fp32.
inline constexpr int kFastParts = 1;
inline constexpr int kExactParts = 3;

// Where a key of its own is erased, the next write does not take back what a read was wrong by.
template <class Memory>
inline constexpr bool kAlwaysExact = OwnKeys<Memory>() != 0;

// Keys of a state as the kernels have it: the rest is zeros.
inline int PaddedKeys(int key_dim) {
  return key_dim <= 64 ? 64 : key_dim <= 128 ? 128 : 256;
}

// For all chunks of the launch's rows.
void WeighPrompts(const PromptCall& call, int items, cudaStream_t stream);
void PassPrompts(const PromptCall& call, cudaStream_t stream);

// Whether a multiprocessor has the shared memory for that.
bool PassFits(const WeightLayout& layout);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_CUH_
