// A lane's part of a row's head, from chunk to chunk: columns c and c + 8 of the state, for some of
// the keys, and of what a chunk's entries write and read. For .cu files; see
// kernels/cuda/prefill_pass.cu.
#ifndef EVENFLOW_KERNELS_CUDA_PREFILL_PASS_LANE_CUH_
#define EVENFLOW_KERNELS_CUDA_PREFILL_PASS_LANE_CUH_

#include "kernels/cuda/prefill_pass_stream.cuh"

namespace evenflow {

using OwnTokens = float[2][4];  // [16 columns, 16 entries], as products leave them

// The state lies as products have it: tiles of [16 columns, 8 keys], of which a lane has keys k and
// k + 1 of both columns. Keys::Of(tile) + first_key is that k.
template <int kTiles, class Keys>
class PassLane {
 public:
  __device__ PassLane(const PromptCall& call, int prompt, int head_index, int first_key,
                      int first_entry, int column)
      : call_(call),
        args_(call.advance.args),
        row_index_(static_cast<unsigned>(call.rows.row[prompt])),
        row_(call.advance.rows[row_index_]),
        chunks_(call, row_),
        head_index_(head_index),
        head_(call.advance, row_, head_index),
        first_key_(first_key),
        first_entry_(first_entry),
        column_(column),
        out_(head_.Output(0, 0) + column) {}

  __device__ const Chunks& chunks() const { return chunks_; }

  __device__ int column() const { return column_; }

  __device__ float (&state())[kTiles][4] { return state_; }

  __device__ int entries() const { return 1 << call_.layout.entry_shift; }  // of a token

  // Steps of 16 entries of the chunk that are in the stored state.
  __device__ int StoredSteps(int chunk) const { return entries() * chunks_.store(chunk) / kMma; }

  __device__ void LoadState() {
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) {
      state_[i / 4][i % 4] = 0;
    }
    if (args_.state_dtype == DType::kF32) {
      ForState([&](float& s, int i, int /*half*/) { s = head_.template StateData<float>()[i]; });
    } else {
      ForState([&](float& s, int i, int /*half*/) {
        s = ToFloat(head_.template StateData<__nv_bfloat16>()[i]);
      });
    }
  }

  // Returns the health of both columns, as far as the lane has them.
  __device__ void StoreState(HealthPart (&parts)[2]) {
    const bool wide = args_.state_dtype == DType::kF32;
    ForState([&](float& s, int i, int half) {
      if (wide) {
        head_.template StateData<float>()[i] = s;
      } else {
        head_.template StateData<__nv_bfloat16>()[i] = FromFloat<__nv_bfloat16>(s);
      }
      parts[half].Observe(s);
    });
  }

  // What the same lanes of all warps with these columns have, of which one `writes`.
  __device__ void StoreHealth(HealthPart (&parts)[2], bool writes) const {
    HealthPart* const of_head =
        call_.advance.Parts(row_index_) + head_index_ * Quads(args_.shape.value_dim);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      parts[half].SumLanes(16);
      const int column = column_ + 8 * half;
      if (writes && threadIdx.x % 16 == 0 && column < args_.shape.value_dim) {
        of_head[column / kQuad] = parts[half];
      }
    }
  }

  // S <- D S + sums for a tile; `decay` is of its two keys.
  __device__ void FoldTile(int tile, float2 decay, const float (&sums)[4]) {
    state_[tile][0] = fmaf(state_[tile][0], decay.x, sums[0]);
    state_[tile][1] = fmaf(state_[tile][1], decay.y, sums[1]);
    state_[tile][2] = fmaf(state_[tile][2], decay.x, sums[2]);
    state_[tile][3] = fmaf(state_[tile][3], decay.y, sums[3]);
  }

  __device__ void RoundState() {
    if (args_.state_dtype == DType::kBF16) {
#pragma unroll
      for (int i = 0; i < 4 * kTiles; ++i) {
        state_[i / 4][i % 4] = Rounded<__nv_bfloat16>(state_[i / 4][i % 4]);
      }
    }
  }

  // own = values - own, both [16 columns, entries] from first_entry on, where the lane has two of
  // each tile of 8. `values` are of the lane's column, `stride` apart.
  __device__ void SubtractFromValues(const float* values, int stride, OwnTokens& own) const {
    values += first_entry_ * stride;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        own[tile][e] = values[(8 * tile + e % 2) * stride + e / 2 * 8] - own[tile][e];
      }
    }
  }

  // Puts what the row's last tokens write into their ring.
  __device__ void Keep(int chunk, const OwnTokens& own) const {
    const int kept = row_.tokens - args_.window.ring();
    if (chunks_.end(chunk) > kept) {
      ForEntries(chunk, kept < 0 ? 0 : kept, own, [&](int t, int entry, float x, float after) {
        if (column_ < args_.shape.value_dim) {
          *head_.ValueOf(entries(), t, entry, column_) = x;
        }
        if (column_ + 8 < args_.shape.value_dim) {
          *head_.ValueOf(entries(), t, entry, column_ + 8) = after;
        }
      });
    }
  }

  // A query's outputs: of a token's last entry.
  __device__ void Write(int chunk, int query, const OwnTokens& own) const {
    const int value_dim = args_.shape.value_dim;
    const int shift = call_.layout.entry_shift, last = entries() - 1;  // 0 or 1
    const int64_t stride = int64_t{args_.shape.output_heads()} * value_dim;
    const int begin = chunks_.begin(chunk) + (first_entry_ >> shift);
    const int tokens = chunks_.end(chunk) - begin;  // of the lane's on
    const bool first = column_ < value_dim, second = column_ + 8 < value_dim;
    float* to = out_ + query * value_dim + begin * stride;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const int t = (8 * tile + odd) >> shift;
        const bool there = odd >= last && t < tokens && begin + t >= 0;
        float* const of_token = to + (odd >> shift) * stride;
        if (there && first) {
          of_token[0] = own[tile][odd];
        }
        if (there && second) {
          of_token[8] = own[tile][2 + odd];
        }
      }
      to += (8 >> shift) * stride;
    }
  }

 private:
  // Visits the lane's elements of the state: (element, index in the head's state, column's half).
  template <class Visit>
  __device__ void ForState(const Visit& visit) {
    const int key_dim = args_.shape.key_dim, value_dim = args_.shape.value_dim;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = column_ + 8 * half;
      int first = first_key_;
      asm volatile("" : "+r"(first));  // or addresses are computed for chunks that need none
      const int width = QuadWidth(value_dim, column / kQuad * kQuad);
      const auto begin = static_cast<int>(StateIndex(key_dim, value_dim, first, column));
      const int keys = column < value_dim ? key_dim - first : 0;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int key = Keys::Of(tile) + e;
          if (key < keys) {
            visit(state_[tile][2 * half + e], begin + key * width, half);
          }
        }
      }
    }
  }

  // Calls visit(token, entry, x of column, x of column + 8) for the lane's entries of tokens from
  // `first` on.
  template <class Visit>
  __device__ void ForEntries(int chunk, int first, const OwnTokens& own, const Visit& visit) const {
    const int begin = chunks_.begin(chunk), end = chunks_.end(chunk);
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const int n = first_entry_ + 8 * tile + odd;
        const int t = begin + (n >> call_.layout.entry_shift);
        if (t >= first && t < end) {
          visit(t, n & (entries() - 1), own[tile][odd], own[tile][2 + odd]);
        }
      }
    }
  }

  const PromptCall& call_;
  const AdvanceArgs& args_;
  const unsigned row_index_;
  const Row row_;
  const Chunks chunks_;
  const int head_index_;
  const PassView head_;
  const int first_key_;
  const int first_entry_;
  const int column_;
  float* const out_;  // of column, for token 0
  float state_[kTiles][4];
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_PREFILL_PASS_LANE_CUH_
