// A block of the decode kernel: a row's head and as many adjacent tiles as it has warps.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_BLOCK_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_BLOCK_CUH_

#include "kernels/cuda/decode_tile.cuh"

namespace evenflow {

// A block: rows in z, heads in y, parts of a head in x.
template <class Shape>
class DecodeBlock {
 public:
  using Memory = typename Shape::Memory;
  using State = typename Shape::State;
  using T = Traits<Memory>;
  using Shared = DecodeShared<Shape>;
  using Tile = DecodeTile<Shape>;
  static constexpr int kDim = Shape::kKeyDim;

  __device__ DecodeBlock(const AdvanceCall& call, const DecodePlan& plan, const Row& row,
                         Shared* shared)
      : call_(call),
        plan_(plan),
        shape_(call.args.shape),
        row_(row),
        shared_(shared),
        layer_(call.Layer(row)),
        ring_(call.args.window.ring()),
        head_(static_cast<int>(blockIdx.y)),
        thread_(static_cast<int>(threadIdx.x)),
        warp_(static_cast<int>(threadIdx.x / 32)),
        lane_(static_cast<int>(threadIdx.x % 32)),
        tile_(call, layer_, head_, (static_cast<int>(blockIdx.x) * Shape::kWarps + warp_) * kTile,
              shared->Tile(ring_, warp_)) {}

  // Rows are written before a step's first kernel, states and entries by none but this: so they are
  // asked for before the kernels before this one have ended.
  __device__ void Run() {
    AskForState();
    DecodeWindow<Shape> window(call_, plan_, row_, shared_);
    AskForEntries(window);
    tile_.AskForValues(window);
    AwaitKernelsBefore();
    LoadInputs(&window);
    __syncthreads();
    shared_->entries_here.Wait(0);
    if constexpr (T::kChannels) {
      ForKeyRows([&](int r) { window.DecayInputs(r); });
      __syncthreads();
    }
    window.Weigh(warp_);
    window.DecayPending(warp_);
    if (blockIdx.x == 0) {
      AppendKey(window);
    }
    __syncthreads();
    shared_->tile_here[warp_].Wait(0);
    if (tile_.exists()) {
      ReadTile(window);
    }
    if (window.stores) {
      CountStored();
    }
  }

 private:
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
      tile_.AskForState(here);
    }
    here->ThatIsAll();
  }

  __device__ void AskForEntries(const DecodeWindow<Shape>& window) {
    const auto* logs = reinterpret_cast<const float*>(layer_ + call_.layout.log_decay);
    const int ring_head = head_ * ring_;
    if (warp_ == 0) {
      const auto* keys = reinterpret_cast<const float*>(layer_ + call_.layout.keys);
      CopyBarrier* here = &shared_->entries_here;
      window.Copy(shared_->Keys(), keys + ring_head * kDim, here);
      if (T::kChannels) {
        window.Copy(shared_->Logs(ring_), logs + ring_head * kDim, here);
      }
      here->ThatIsAll();
    }
    if constexpr (Memory::kDecay == Decay::kScalar) {
      if (thread_ < ring_) {
        entry_log_ = logs[ring_head + thread_];
      }
    }
  }

  __device__ void LoadInputs(DecodeWindow<Shape>* window) {
    const AdvanceArgs& args = call_.args;
    const uint64_t token_head = Head(shape_.heads, blockIdx.y);
    const uint64_t query_head = Head(shape_.query_heads, plan_.heads_a_query.Divide(blockIdx.y));
    const uint64_t key_head = Head(shape_.key_heads, plan_.heads_a_key.Divide(blockIdx.y));
    const uint64_t value_head = Head(shape_.value_heads, plan_.heads_a_value.Divide(blockIdx.y));
    if constexpr (Memory::kDecay == Decay::kConstant) {
      window->constant = args.log_decay[head_];
    } else if constexpr (Memory::kDecay == Decay::kScalar) {
      window->constant = args.log_decay[token_head];
    }
    beta_ = Memory::kHasBeta ? args.beta[token_head] : 1;
    const int column = tile_.column();
    value_ = column < shape_.value_dim
                 ? args.v[value_head * static_cast<uint32_t>(shape_.value_dim) +
                          static_cast<uint32_t>(column)]
                 : 0;
    ForKeyRows([&](int r) {
      shared_->query[r] = args.q[query_head * kDim + r];
      shared_->key[r] = args.k[key_head * kDim + r];
      if (T::kChannels) {
        shared_->log[r] = args.log_decay[token_head * kDim + r];
      }
    });
    if (Memory::kDecay == Decay::kScalar && thread_ < ring_) {
      shared_->scalar_logs[thread_] = entry_log_;
    }
  }

  __device__ void AppendKey(const DecodeWindow<Shape>& window) const {
    const int64_t entry = int64_t{head_} * ring_ + window.entry;
    auto* keys = reinterpret_cast<float*>(layer_ + call_.layout.keys) + entry * kDim;
    auto* logs = reinterpret_cast<float*>(layer_ + call_.layout.log_decay);
    ForKeyRows([&](int r) {
      keys[r] = shared_->key[r];
      if (T::kChannels) {
        logs[entry * kDim + r] = shared_->log[r];
      }
    });
    if (thread_ == 0) {
      if (Memory::kDecay == Decay::kScalar) {
        logs[entry] = window.ScalarLog();
      }
      if (row_.position == 0 && head_ == 0) {
        *call_.StoredWord(row_) = 0;
      }
    }
  }

  __device__ void ReadTile(const DecodeWindow<Shape>& window) const {
    float query[kQuad] = {}, erase[kQuad] = {};
    HealthPart health;
    tile_.ReadState(window, query, erase, &health);
    if (window.stores) {
      health.SumLanes(32);
      if (lane_ == 0) {
        call_.Parts(blockIdx.z)[head_ * Tiles(shape_.value_dim) + tile_.index()] = health;
      }
    }
    tile_.ReadEntries(window, query, erase);
    const float read = SumQuad(query);
    const float u = T::kErases ? beta_ * (value_ - SumQuad(erase)) : value_;
    if (tile_.owns() && lane_ % 2 == 0) {  // two lanes have a column; one writes it
      const uint64_t token_head = Head(shape_.heads, blockIdx.y);
      call_.args.o[token_head * static_cast<uint32_t>(shape_.value_dim) +
                   static_cast<uint32_t>(tile_.column())] =
          fmaf(window.QueryWeight(window.entries), u, read);
      tile_.AppendValue(window, u);
    }
  }

  // After the last block of a row, its health and how much is stored are written.
  __device__ void CountStored() const {
    __syncthreads();
    if (warp_ == 0) {
      uint32_t* stored = plan_.stored + blockIdx.z;
      uint32_t before = 0;
      if (lane_ == 0) {
        __threadfence();
        before = atomicAdd(stored, 1);
      }
      before = __shfl_sync(kWarp, before, 0);
      if (before + 1 == gridDim.x * gridDim.y) {
        __threadfence();
        FinishRow(call_, static_cast<int>(blockIdx.z), shape_.heads * Tiles(shape_.value_dim));
        if (lane_ == 0) {
          *stored = 0;
        }
      }
    }
  }

  // Calls visit(r) for this thread's part of the key_dim rows.
  template <class Visit>
  __device__ void ForKeyRows(const Visit& visit) const {
    constexpr int kThreads = Shape::kThreads;
#pragma unroll
    for (int i = 0; i < (kDim + kThreads - 1) / kThreads; ++i) {
      if (kDim % kThreads == 0 || thread_ + kThreads * i < kDim) {
        visit(thread_ + kThreads * i);
      }
    }
  }

  // The index of a head of the token, in an array of so many a token.
  __device__ uint32_t Head(int heads, uint32_t head) const {
    return static_cast<uint32_t>(row_.first_token) * static_cast<uint32_t>(heads) + head;
  }

  const AdvanceCall& call_;
  const DecodePlan& plan_;
  const MemoryShape& shape_;
  const Row row_;
  Shared* const shared_;
  std::byte* const layer_;
  const int ring_;
  const int head_;
  const int thread_, warp_, lane_;
  Tile tile_;            // the warp's
  float entry_log_ = 0;  // of the ring's entry of the thread's number
  float value_ = 0;      // of the token, in the lane's column
  float beta_ = 1;
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_BLOCK_CUH_
