// The warp of a decode block that brings units and tiles into shared memory, as far ahead as there
// are buffers. Lane 0 does nearly all of it, so its instructions are few: no divisions, and
// addresses by increments.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_PRODUCER_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_PRODUCER_CUH_

#include "kernels/cuda/decode_plan.cuh"

namespace evenflow {

template <class Shape>
class DecodeProducer {
 public:
  using Memory = typename Shape::Memory;
  using State = typename Shape::State;
  using Layout = UnitLayout<Shape>;
  static constexpr int kDim = Shape::kKeyDim;
  static constexpr bool kChannels = Layout::kChannels;

  __device__ DecodeProducer(const AdvanceCall& call, const DecodePlan& plan,
                            const DecodeShared<Shape>& shared)
      : call_(call), plan_(plan), shared_(shared), lane_(static_cast<int>(threadIdx.x) % 32) {}

  // Brings the first unit. Its states and entries are written by no kernel of the step but this
  // one, so they are asked for before the kernels before it have ended.
  __device__ void RunAhead() {
    unit_ = LoadUnit(static_cast<int>(blockIdx.x));
    const Row row = unit_.tiles > 0 ? call_.rows[unit_.row] : Row();
    if (row.tokens != 1) {
      cudaGridDependencySynchronize();
      return;
    }
    const Source source = SourceOf(unit_, row.slot, row.first_token);
    ahead_ = Least(unit_.tiles, plan_.stages);
    RingCursor stage;
    for (int tile = 0; tile < ahead_; ++tile, stage.Next(plan_.stages)) {
      AskForState(stage, source, tile);
    }
    const DecodeRow info = DescribeRow(call_, plan_, row);
    cudaGridDependencySynchronize();
    Bring(info);
  }

  // The other units, once shared.rows is filled.
  __device__ void Run() {
    int next = Grab(), after = Grab();
    for (;;) {
      const int index = __shfl_sync(kWarp, next, 0);
      next = after;
      after = Grab();
      unit_ = LoadUnit(index);
      if (index >= plan_.units) {
        break;
      }
      if (unit_.tiles > 0 && shared_.rows[unit_.row].decode) {
        Bring(shared_.rows[unit_.row]);
      }
    }
    SendEnd();
  }

 private:
  // Where a unit's tiles are read from; moves from tile to tile.
  struct Source {
    const State* state;
    const float* values;
    const float* input;
    int columns;  // from the tile on, in the head
  };

  // Two pieces of a ring: entries before its end, entries from its beginning.
  struct Pieces {
    int first, at_end, at_begin;
  };

  // Lane 0's: the next unit that no block has.
  __device__ int Grab() const {
    return lane_ == 0 ? static_cast<int>(gridDim.x + atomicAdd(plan_.counters, 1)) : 0;
  }

  __device__ Unit LoadUnit(int index) const {
    return index < plan_.units ? UnitOf(plan_, index) : Unit();
  }

  __device__ std::byte* Layer(int slot) const {
    Row row;
    row.slot = slot;
    return call_.Layer(row);
  }

  __device__ Source SourceOf(const Unit& unit, int slot, int token) const {
    const MemoryShape& shape = call_.args.shape;
    const int column = unit.tile * kTile;
    const int value_head = plan_.heads_a_value.Divide(unit.head);
    std::byte* layer = Layer(slot);
    const int64_t first = int64_t{unit.head} * shape.value_dim + column;
    Source source;
    source.columns = shape.value_dim - column;
    source.state = reinterpret_cast<const State*>(layer + call_.layout.committed) + first * kDim;
    source.values =
        reinterpret_cast<const float*>(layer + call_.layout.values) + first * shared_.ring;
    source.input =
        call_.args.v + (int64_t{token} * shape.value_heads + value_head) * shape.value_dim + column;
    return source;
  }

  __device__ void Bring(const DecodeRow& row) {
    UnitInfo info;
    info.unit = unit_;
    info.row = row;
    info.layer = Layer(row.slot);
    info.pending = row.folds ? call_.args.window.commit : 0;
    const int first = row.entry - info.pending - row.entries;
    info.first = first < 0 ? first + shared_.ring : first;
    const int count = info.pending + row.entries;
    const int at_end = Least(count, shared_.ring - info.first);
    const Pieces pieces = {info.first, at_end, count - at_end};
    Source source = SourceOf(unit_, row.slot, row.token);
    for (int tile = 0; tile < unit_.tiles; ++tile) {
      if (tile >= ahead_) {
        shared_.header->stage_empty[stage_.index].Wait(stage_.parity ^ 1);
        AskForState(stage_, source, 0);
      }
      if (tile == 0) {
        BringUnit(info, pieces);
      }
      EndTile(pieces, &source);
    }
    ahead_ = 0;
  }

  // Entries of `size` floats each, to the same places in shared memory as in the ring.
  __device__ static void CopyEntries(float* to, const float* from, const Pieces& pieces, int size,
                                     Mbarrier* end) {
    if (pieces.at_end > 0) {
      const int first = pieces.first * size;
      CopyBulk(to + first, from + first, 4 * static_cast<uint32_t>(pieces.at_end * size), end);
    }
    if (pieces.at_begin > 0) {
      CopyBulk(to, from, 4 * static_cast<uint32_t>(pieces.at_begin * size), end);
    }
  }

  __device__ void BringUnit(const UnitInfo& info, const Pieces& pieces) {
    constexpr int kVectors = kChannels ? 2 : 1;  // of an entry
    const MemoryShape& shape = call_.args.shape;
    const int head = info.unit.head;
    float* to = shared_.UnitData(buffer_.index);
    Mbarrier* full = &shared_.header->unit_full[buffer_.index];
    shared_.header->unit_empty[buffer_.index].Wait(buffer_.parity ^ 1);
    const int64_t token_head = int64_t{info.row.token} * shape.heads + head;
    const int64_t ring_head = int64_t{head} * shared_.ring;
    const auto* logs = reinterpret_cast<const float*>(info.layer + call_.layout.log_decay);
    CopyWords(token_head, head, logs + ring_head, to);
    full->ArriveAfterWords();
    if (lane_ == 0) {
      shared_.header->info[buffer_.index] = info;
      const int vectors = 1 + kVectors + kVectors * (pieces.at_end + pieces.at_begin);
      full->ArriveAndExpect(static_cast<uint32_t>(4 * kDim * vectors));
      const int64_t token = info.row.token;
      const int query_head = plan_.heads_a_query.Divide(head);
      const int key_head = plan_.heads_a_key.Divide(head);
      CopyBulk(to + Layout::kQuery, call_.args.q + (token * shape.query_heads + query_head) * kDim,
               4 * kDim, full);
      CopyBulk(to + Layout::kKey, call_.args.k + (token * shape.key_heads + key_head) * kDim,
               4 * kDim, full);
      const auto* keys = reinterpret_cast<const float*>(info.layer + call_.layout.keys);
      CopyEntries(to + Layout::kKeys, keys + ring_head * kDim, pieces, kDim, full);
      if (kChannels) {
        CopyBulk(to + Layout::kLogDecay, call_.args.log_decay + token_head * kDim, 4 * kDim, full);
        CopyEntries(to + Layout::Logs(shared_.ring), logs + ring_head * kDim, pieces, kDim, full);
      }
    }
    buffer_.Next(plan_.unit_buffers);
  }

  // What is too small or not aligned enough for bulk copies.
  __device__ void CopyWords(int64_t token_head, int head, const float* logs, float* to) const {
    if (Memory::kDecay == Decay::kConstant && lane_ == 0) {
      CopyWord(to + Layout::kConstant, call_.args.log_decay + head);
    }
    if (Memory::kHasBeta && lane_ == 1) {
      CopyWord(to + Layout::kBeta, call_.args.beta + token_head);
    }
    if constexpr (Memory::kDecay == Decay::kScalar) {
      if (lane_ == 2) {
        CopyWord(to + Layout::kConstant, call_.args.log_decay + token_head);
      }
      for (int entry = lane_; entry < shared_.ring; entry += 32) {
        CopyWord(to + Layout::kScalarLogs + entry, logs + entry);
      }
    }
  }

  // Of the `tile`-th tile from the source on, into an empty stage.
  __device__ void AskForState(const RingCursor& stage, const Source& source, int tile) const {
    if (lane_ == 0) {
      Mbarrier* full = &shared_.header->stage_full[stage.index];
      const int width = Least(kTile, source.columns - tile * kTile);
      const auto bytes = static_cast<uint32_t>(kDim * static_cast<int>(sizeof(State)) * width);
      full->Expect(bytes);
      CopyBulk(shared_.Stage(stage.index), source.state + tile * kTile * kDim, bytes, full);
    }
  }

  __device__ void EndTile(const Pieces& pieces, Source* source) {
    const int width = Least(kTile, source->columns);
    if (lane_ == 0) {
      auto* stage = reinterpret_cast<float*>(shared_.Stage(stage_.index));
      Mbarrier* full = &shared_.header->stage_full[stage_.index];
      full->ArriveAndExpect(
          static_cast<uint32_t>(4 * width * (1 + pieces.at_end + pieces.at_begin)));
      CopyBulk(stage + StageLayout<Shape>::InputValue(shared_.ring) / 4, source->input,
               static_cast<uint32_t>(4 * width), full);
      CopyEntries(stage + StageLayout<Shape>::kValues / 4, source->values, pieces, width, full);
    }
    source->state += kTile * kDim;
    source->values += kTile * shared_.ring;
    source->input += kTile;
    source->columns -= kTile;
    stage_.Next(plan_.stages);
  }

  __device__ void SendEnd() {
    Mbarrier* full = &shared_.header->unit_full[buffer_.index];
    shared_.header->unit_empty[buffer_.index].Wait(buffer_.parity ^ 1);
    if (lane_ == 0) {
      shared_.header->info[buffer_.index] = UnitInfo();
      full->Arrive();
      // The last block leaves the counters as it found them.
      if (atomicAdd(plan_.counters + 1, 1) == gridDim.x - 1) {
        plan_.counters[0] = 0;
        plan_.counters[1] = 0;
      }
    }
    full->ArriveAfterWords();
  }

  const AdvanceCall& call_;
  const DecodePlan& plan_;
  const DecodeShared<Shape>& shared_;
  const int lane_;
  RingCursor stage_, buffer_;
  Unit unit_;
  int ahead_ = 0;  // tiles of the unit whose state has been asked for
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_PRODUCER_CUH_
