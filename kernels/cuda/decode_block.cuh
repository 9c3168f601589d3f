// A block of the decode kernel: a row's head and as many adjacent tiles as it has warps.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_BLOCK_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_BLOCK_CUH_

#include "kernels/cuda/decode_inputs.cuh"
#include "kernels/cuda/decode_output.cuh"
#include "kernels/cuda/decode_ring.cuh"
#include "kernels/cuda/decode_tile.cuh"

namespace evenflow {

// A block: rows in z, heads in y, parts of a head in x. kFew: of rows with a few tokens, which
// are read one after the other while the state stays in shared memory.
template <class Shape, bool kFew>
class DecodeBlock {
 public:
  using Memory = typename Shape::Memory;
  using State = typename Shape::State;
  using T = typename Shape::T;
  using Shared = DecodeShared<Shape>;
  using Tile = DecodeTile<Shape>;
  static constexpr bool kPrepares = !kFew && kPreparable<Memory>;

  __device__ DecodeBlock(const AdvanceCall& call, const DecodePlan& plan, const Row& row,
                         Shared* shared)
      : call_(call),
        plan_(plan),
        shape_(call.args.shape),
        row_(row),
        shared_(shared),
        layer_(call.Layer(row)),
        head_(static_cast<int>(blockIdx.y)),
        thread_(static_cast<int>(threadIdx.x)),
        warp_(static_cast<int>(threadIdx.x / 32)),
        lane_(static_cast<int>(threadIdx.x % 32)),
        tile_(call, layer_, head_, (static_cast<int>(blockIdx.x) * Shape::kWarps + warp_) * kTile,
              shared->Tile(call.args.window.ring(), warp_)),
        ring_(call, layer_, shared) {}

  // Rows are written before a step's first kernel, states and entries by none but this: so they are
  // asked for before the kernels before this one have ended.
  __device__ void Run() {
    AskForState();
    DecodeWindow<Shape> window(call_, plan_, row_, shared_);
    ring_.Ask(window, plan_.keys_once);
    tile_.AskForValues(window);
    if (Finishes()) {
      output_.BeforeInputs(plan_, tile_.column(), tile_.owns());
    }
    inputs_.LoadConstant(call_);
    window.constant = inputs_.log_decay;
    if (Prepares()) {
      inputs_.BeforePrepare(plan_, row_.position, shared_);
      __syncthreads();
    }
    if (window.folds) {
      ring_.AwaitScalarLogs();
      __syncthreads();
      shared_->entries_here.Wait(0);
      Fold(&window);
    }
    AwaitKernelsBefore();
    ReadToken(&window);
    while (More()) {
      ++token_;
      __syncthreads();
      window.Next();
      tile_.AskForValues(window);
      if (window.folds) {
        Fold(&window);
      } else if (window.stores) {
        StoreState();
      }
      ReadToken(&window);
    }
  }

 private:
  // Whether another token follows.
  __device__ bool More() const { return kFew && token_ + 1 < row_.tokens; }

  // What is left to the kernel.
  __device__ bool Prepares() const { return kPrepares && plan_.prepares; }

  __device__ bool Finishes() const { return !kFew && plan_.finishes; }

  __device__ int Token() const { return row_.first_token + token_; }

  __device__ void ReadToken(DecodeWindow<Shape>* window) {
    LoadInputs(window);
    __syncthreads();
    shared_->entries_here.Wait(0);
    if constexpr (T::kChannels) {
      ForKeyRows<Shape>([&](int r) { window->DecayInputs(r); });
      __syncthreads();
    }
    window->Weigh(warp_);
    AppendKeys(*window);
    // What is read needs the weights of others: so late, that a warp need not wait to read its
    // state.
    shared_->tile_here[warp_].Wait(0);
    float sums[T::kReads][kQuad] = {};
    if (tile_.exists()) {
      tile_.ReadState(*window, sums);
    }
    __syncthreads();
    const float output = tile_.exists() ? FinishTile(*window, sums) : 0;
    if (Finishes()) {
      output_.Finish(plan_, Token(), tile_.column(), tile_.owns(), output, shared_);
    } else if (tile_.owns() && lane_ % 2 == 0) {  // two lanes have a column; one writes it
      const uint64_t token_head = TokenHead(Token(), shape_.heads, blockIdx.y);
      call_.args.o[token_head * static_cast<uint32_t>(shape_.value_dim) +
                   static_cast<uint32_t>(tile_.column())] = output;
    }
    if (tile_.exists() && window->stores) {
      AwaitCopiesOut();
      const int tiles = Tiles(shape_.value_dim);
      CountPart(call_, row_, head_ * tiles + tile_.index(), shape_.heads * tiles,
                plan_.stored + blockIdx.z, row_.position + token_ - window->tokens, health_);
    }
  }

  // Takes the state in shared memory over the pending block, which needs nothing of the token.
  __device__ void Fold(DecodeWindow<Shape>* window) {
    window->DecayPending(warp_);
    __syncthreads();
    shared_->tile_here[warp_].Wait(0);
    if (tile_.exists()) {
      health_ = tile_.Fold(*window);
    }
    if (window->stores) {
      StoreState();
    }
    window->folds = false;
    tile_.AskForValues(*window);
  }

  __device__ void StoreState() const {
    if (tile_.exists()) {
      tile_.StoreState();
    }
  }

  __device__ void AskForState() {
    CopyBarrier* here = &shared_->tile_here[warp_];
    if (lane_ == 0) {
      here->Init();
      if (thread_ == 0) {
        shared_->entries_here.Init();
      }
      CopyBarrier::FenceInit();
    }
    __syncwarp();
    if (tile_.exists()) {
      tile_.AskForState(here, plan_.states_once);
    }
    here->ThatIsAll();
  }

  __device__ void LoadInputs(DecodeWindow<Shape>* window) {
    if (Finishes()) {
      output_.LoadGate(plan_, Token(), tile_.column(), tile_.owns());
    }
    if constexpr (kPrepares) {
      if (plan_.prepares) {
        inputs_.Prepare(plan_, Token(), tile_.column(), shared_);
      } else {
        inputs_.Load(call_, plan_, Token(), tile_.column(), shared_);
      }
    } else {
      inputs_.Load(call_, plan_, Token(), tile_.column(), shared_);
    }
    window->constant = inputs_.log_decay;
    if (token_ == 0 && window->pending == 0) {  // else they are there
      ring_.AwaitScalarLogs();
    }
  }

  __device__ void AppendKeys(const DecodeWindow<Shape>& window) const {
    if (More()) {
      ring_.AppendHere(window);
    }
    if (blockIdx.x == 0) {
      ring_.Append(window);
      if (row_.position + token_ == 0 && head_ == 0 && thread_ == 0) {
        *call_.StoredWord(row_) = 0;
      }
    }
  }

  // Of what has been read of the state, with the entries: the token's values and what it reads,
  // which is returned.
  __device__ float FinishTile(const DecodeWindow<Shape>& window,
                              float (&sums)[T::kReads][kQuad]) const {
    tile_.ReadEntries(window, sums);
    const int own = window.entries();
    const float beta = inputs_.Strength(window.Weight(T::kReads - 1, own));
    float u[T::kEntries];
    int read = 0;
#pragma unroll
    for (int n = 0; n < T::kEntries; ++n) {
      const bool writes = (T::kWriting >> n & 1) != 0;
      u[n] = writes ? inputs_.value : 0;
      if ((T::kErasing >> n & 1) != 0) {
        ++read;
        float erased = SumQuad(sums[read]);
#pragma unroll
        for (int before = 0; before < n; ++before) {
          erased = fmaf(window.Weight(read, own + before), u[before], erased);
        }
        u[n] -= erased;
      }
      u[n] *= writes ? beta : 1;
    }
    float output = SumQuad(sums[0]);
#pragma unroll
    for (int n = 0; n < T::kEntries; ++n) {
      output = fmaf(window.Weight(0, own + n), u[n], output);
    }
    if (tile_.owns() && lane_ % 2 == 0) {
      tile_.AppendValues(window, u);
    }
    return output;
  }

  const AdvanceCall& call_;
  const DecodePlan& plan_;
  const MemoryShape& shape_;
  const Row row_;
  Shared* const shared_;
  std::byte* const layer_;
  const int head_;
  const int thread_, warp_, lane_;
  Tile tile_;          // the warp's
  HealthPart health_;  // of what was folded there
  int token_ = 0;      // of the row, that is read
  DecodeRing<Shape> ring_;
  DecodeInputs<Shape> inputs_;
  DecodeOutput<Shape> output_;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_BLOCK_CUH_
