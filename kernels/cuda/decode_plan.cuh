// How the decode kernel's work is cut, and what lies where in a block's shared memory.
//
// A unit is a row's head and up to 4 adjacent tiles of 32 columns, no more than there are stages.
// Units are handed out as blocks get free; the last ones are single tiles, so that all blocks end
// together and few sessions occupy the whole device. What a head's tiles share (keys, log decays,
// the token's own inputs) is loaded once a unit, states and values once a tile, each into a ring of
// its own.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_PLAN_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_PLAN_CUH_

#include <cstdint>

#include "kernels/cuda/advance.cuh"
#include "kernels/cuda/async_copy.cuh"

namespace evenflow {

inline constexpr int kSingleTiles = 4;  // at the end, for each multiprocessor
inline constexpr int kMinUnitBuffers = 2;
inline constexpr int kMaxUnitBuffers = 6;
inline constexpr int kMaxStages = 24;
inline constexpr int kMaxEntries = 64;  // of a ring
inline constexpr int kMaxDecodeRows = 2048;

// Division by a number that the host knows: exact for n < 2^58 / divisor.
struct Divider {
  uint64_t magic = 0;  // 0: by 1
  int divisor = 1;

  Divider() = default;

  explicit Divider(int by) : magic(by == 1 ? 0 : ~uint64_t{0} / by + 1), divisor(by) {}

  __device__ int64_t Divide(int64_t n) const {
    return magic == 0 ? n : static_cast<int64_t>(__umul64hi(static_cast<uint64_t>(n), magic));
  }

  __device__ int Divide(int n) const { return static_cast<int>(Divide(int64_t{n})); }

  __device__ int Remainder(int64_t n) const {
    return static_cast<int>(n - Divide(n) * int64_t{divisor});
  }
};

struct DecodePlan {
  int row_count = 0;
  int stages = 0;
  int unit_buffers = 0;
  int whole = 0;  // units of several tiles come first
  int units = 0;
  int tiles = 0;       // of a head
  int unit_shift = 0;  // a unit has up to 2^this tiles
  Divider parts;       // of a head, as long as units
  Divider heads, heads_a_query, heads_a_key, heads_a_value;
  Divider commit, ring;
  uint32_t* counters =
      nullptr;  // device, zeros: [0] units given out, [1] blocks done, [kCounters + row]: tiles
};

struct Unit {
  int row = 0, head = 0;
  int tile = 0;  // the first
  int tiles = 0;
};

// Of the decode kernel: fixed when it is compiled.
template <class M, class S, int kDim>
struct DecodeShape {
  using Memory = M;
  using State = S;
  static constexpr int kKeyDim = kDim;
  static constexpr int kRows = kDim / kQuadLanes;  // of a state, for each lane
  // Consumers: kGroups groups of warps, each with stages of its own. Then scorers, the producer and
  // the finisher.
  static constexpr int kGroupWarps = kTile / kWarpColumns;
  static constexpr int kGroups = 4;
  static constexpr int kConsumers = kGroups * kGroupWarps;
  static constexpr int kScorers = 4;
  static constexpr int kProducer = kConsumers + kScorers;  // which warp it is
  static constexpr int kThreads = 32 * (kProducer + 2);
};

__device__ inline Unit UnitOf(const DecodePlan& plan, int index) {
  const int unit_tiles = 1 << plan.unit_shift;
  const int single = index - plan.whole;  // counted from the first
  const int part = single < 0 ? index : plan.whole + (single >> plan.unit_shift);
  const int row_head = plan.parts.Divide(part);
  Unit unit;
  unit.row = plan.heads.Divide(row_head);
  unit.head = row_head - unit.row * plan.heads.divisor;
  unit.tile = (part - row_head * plan.parts.divisor) << plan.unit_shift;
  unit.tiles = Least(unit_tiles, plan.tiles - unit.tile);
  if (single >= 0) {
    const int tile = single & (unit_tiles - 1);
    unit.tiles = tile < unit.tiles ? 1 : 0;
    unit.tile += tile;
  }
  return unit;
}

// A row, as units need it.
struct DecodeRow {
  int slot = 0;
  int token = 0;
  int16_t entry = 0;    // of the token, in the rings
  int16_t entries = 0;  // tokens of the block before it
  bool decode = false;  // the row has one token
  bool folds = false;   // the block before is not in the stored state
  bool store = false;   // and shall be
  bool starts = false;  // position 0
};

// What the producer says of a unit.
struct UnitInfo {
  Unit unit;  // no tiles: there are no more units
  DecodeRow row;
  std::byte* layer = nullptr;  // of the slot
  int pending = 0;             // entries that are loaded first, to be folded: C or none
  int first = 0;               // the first loaded entry; they go around the ring up to row.entry
};

// In floats, from where a unit's data begin. kDecayed* and kFoldDecay are made by the scorers.
template <class Shape>
struct UnitLayout {
  static constexpr bool kChannels = Traits<typename Shape::Memory>::kChannels;
  static constexpr int kDim = Shape::kKeyDim;
  static constexpr int kQuery = 0;
  static constexpr int kKey = kDim;
  static constexpr int kLogDecay = 2 * kDim;  // of the token, by channels
  static constexpr int kConstant = 3 * kDim;  // log decay of the token or head
  static constexpr int kBeta = kConstant + 1;
  static constexpr int kScalarLogs = kConstant + 2;                      // [ring]
  static constexpr int kDecayedQuery = kConstant + 2 + kMaxEntries + 2;  // by channels
  static constexpr int kDecayedKey = kDecayedQuery + (kChannels ? kDim : 0);
  static constexpr int kFoldDecay = kDecayedKey + (kChannels ? kDim : 0);
  static constexpr int kKeys = kFoldDecay + (kChannels ? kDim : 0);  // [ring, key_dim]

  __host__ __device__ static int Logs(int ring) { return kKeys + ring * kDim; }  // by channels

  __host__ __device__ static int Floats(int ring) {
    return kKeys + (kChannels ? 2 : 1) * ring * kDim;
  }
};

template <class Shape>
struct StageLayout {  // in bytes; the state is first
  static constexpr int kValues =
      Shape::kKeyDim * kTile * static_cast<int>(sizeof(typename Shape::State));

  __host__ __device__ static int InputValue(int ring) { return kValues + 4 * kTile * ring; }

  __host__ __device__ static int Bytes(int ring) { return InputValue(ring) + 4 * kTile; }
};

// At the beginning of a block's shared memory; rows, stages and unit buffers follow.
struct alignas(16) DecodeHeader {
  Mbarrier stage_full[kMaxStages], stage_empty[kMaxStages];
  // A unit is full when it has been loaded, ready when the scorers have worked on it.
  Mbarrier unit_full[kMaxUnitBuffers], unit_ready[kMaxUnitBuffers], unit_empty[kMaxUnitBuffers];
  UnitInfo info[kMaxUnitBuffers];
  float weights[kMaxUnitBuffers][2][kMaxEntries];  // [, read, entry]
};

template <class Shape>
struct DecodeShared {
  DecodeHeader* header;
  DecodeRow* rows;
  char* stages;
  float* units;
  int ring;

  __host__ __device__ static int RowsEnd(const DecodePlan& plan) {
    const int bytes = static_cast<int>(sizeof(DecodeHeader) + plan.row_count * sizeof(DecodeRow));
    return (bytes + 127) / 128 * 128;
  }

  __host__ __device__ static int Bytes(int ring_entries, const DecodePlan& plan) {
    return RowsEnd(plan) + plan.stages * StageLayout<Shape>::Bytes(ring_entries) +
           plan.unit_buffers * 4 * UnitLayout<Shape>::Floats(ring_entries);
  }

  __device__ DecodeShared(char* shared, int ring_entries, const DecodePlan& plan)
      : header(reinterpret_cast<DecodeHeader*>(shared)),
        rows(reinterpret_cast<DecodeRow*>(shared + sizeof(DecodeHeader))),
        stages(shared + RowsEnd(plan)),
        units(reinterpret_cast<float*>(stages +
                                       plan.stages * StageLayout<Shape>::Bytes(ring_entries))),
        ring(ring_entries) {}

  __device__ char* Stage(int stage) const {
    return stages + stage * StageLayout<Shape>::Bytes(ring);
  }

  __device__ float* UnitData(int buffer) const {
    return units + buffer * UnitLayout<Shape>::Floats(ring);
  }
};

// Goes around a ring of buffers: which one, and the parity of its phase.
struct RingCursor {
  int index = 0;
  uint32_t parity = 0;

  __device__ void Next(int count) {
    if (++index == count) {
      index = 0;
      parity ^= 1;
    }
  }
};

__device__ inline DecodeRow DescribeRow(const AdvanceCall& call, const DecodePlan& plan,
                                        const Row& row) {
  DecodeRow info;
  if (row.tokens != 1) {
    return info;
  }
  const Window& window = call.args.window;
  const int64_t block = plan.commit.Divide(row.position) * window.commit;
  info.slot = row.slot;
  info.token = row.first_token;
  info.entry = static_cast<int16_t>(plan.ring.Remainder(row.position));
  info.entries = static_cast<int16_t>(row.position - block);
  info.decode = true;
  info.folds = call.Stored(row) < block;
  // As Window::Stored: C more tokens may be stored once R tokens of the block have been read.
  info.store = info.folds && info.entries + 1 >= window.rollback;
  info.starts = row.position == 0;
  return info;
}

// Whether the decode kernel takes the layer: what is copied in bulk must be aligned, and there may
// be one block at most to be folded.
bool DecodeSupports(const AdvanceArgs& args, int rows);

// Rows of one token, of layers that it supports.
void DecodeF32(const AdvanceCall& call, const CudaStep& step);
void DecodeBF16(const AdvanceCall& call, const CudaStep& step);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_PLAN_CUH_
