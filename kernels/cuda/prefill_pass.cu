// Takes rows from chunk to chunk: see kernels/cuda/prefill.cuh. A block has a row's head and some
// of its columns. Four warps have 16 columns of the state, each a quarter of the keys: S^T [16,
// keys] stays in registers, and is shown to all of them as an operand of the products that read it.
// Each reads for a quarter of the chunk's entries, with all keys. Other warps copy weights and
// values into shared memory.
#include "kernels/cuda/prefill_pass_lane.cuh"
#include "kernels/cuda/prefill_splits.cuh"

namespace evenflow {
namespace {

constexpr unsigned kLeastBlocks = 100;  // that make use of a device

template <int kKeys, int kParts>
struct PassShape {
  // Of a step's weights.
  static constexpr int kSlices =
      kParts == kFastParts ? kKeys / kSlice : std::min(2, kKeys / kSlice);
  static constexpr int kSteps = kKeys / kSlice / kSlices;  // that bring all keys
  using Room = PassRoom<kSlices, kSteps, kParts>;
  using Splits = WarpSplits<kKeys, kParts>;

  static constexpr int kMaxGroups = 2;  // of columns of a block
  static constexpr int kLeastBuffers = 2;
  static constexpr int kMostBuffers = kParts == kFastParts ? 4 : 2;
  static constexpr int kMaxThreads = 32 * (kSplits * kMaxGroups + kCopyWarps);

  // Slabs are of 16 keys; of those of a step a warp has some, one after the other.
  static constexpr int kStepSlabs = kMmas * kSlices;
  static constexpr int kSlabs = kStepSlabs / kSplits;
  static constexpr int kTiles = 2 * kSlabs * kSteps;  // of 8 keys

  struct Keys {
    static constexpr int Of(int tile) {
      return tile / (2 * kSlabs) * kSlices * kSlice + tile % (2 * kSlabs) * 8;
    }
  };

  static int Bytes(int groups, int buffers) {
    return Room::Bytes(groups, buffers) + groups * Splits::kBytes;
  }
};

template <int kKeys, bool kErases, int kParts>
class Passer {
 public:
  using Shape = PassShape<kKeys, kParts>;
  using Room = typename Shape::Room;
  using Splits = typename Shape::Splits;

  __device__ Passer(const PromptCall& call, int prompt, int head_index, const Room& room)
      : queries_(call.layout.queries),
        splits_(room.after()),
        split_(splits_.split()),
        t_(splits_.lane() % 4),
        in_block_(kPassColumns * splits_.group() + splits_.lane() / 4),
        value_stride_(room.value_stride()),
        stream_(room),
        lane_(call, prompt, head_index, split_ * Shape::kSlabs * kMma + 2 * t_,
              kMma * split_ + 2 * t_, room.column() + in_block_) {}

  __device__ void Run() {
    lane_.LoadState();
    for (int chunk = 0; chunk < lane_.chunks().count(); ++chunk) {
      Chunk(chunk);
    }
  }

 private:
  __device__ static const std::byte* Tile(const std::byte* stage, int slab, int tile) {
    return stage + (kMmas * slab + tile) * kParts * kTileBytes;
  }

  __device__ void SubtractFromValues(int chunk, OwnTokens& own) {
    lane_.SubtractFromValues(stream_.Values(chunk) + in_block_, value_stride_, own);
    stream_.FreeValues(chunk);
  }

  // Shows the state to the group's warps.
  __device__ void GiveState(int room) {
#pragma unroll
    for (int slab = 0; slab < Shape::kSlabs * Shape::kSteps; ++slab) {
      splits_.GiveState(
          room,
          slab / Shape::kSlabs * Shape::kStepSlabs + split_ * Shape::kSlabs + slab % Shape::kSlabs,
          SplitA<kParts>(lane_.state()[2 * slab], lane_.state()[2 * slab + 1]));
    }
  }

  // own^T = S^T X^T for the warp's rows of X, which come in the next steps; returns the square
  // after them, with the last step still held.
  __device__ const std::byte* ReadState(int room, OwnTokens& own) {
    OwnTokens sums[2] = {};  // of slabs by turns, as a sum waits for the one before
    const std::byte* stage = nullptr;
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      if (step > 0) {
        stream_.Free();
      }
      stage = stream_.Next();
#pragma unroll
      for (int slab = 0; slab < Shape::kStepSlabs; ++slab) {
        float(&sum)[2][4] = sums[slab % 2];
        MmaOfTile<kParts>(splits_.TakeState(room, Shape::kStepSlabs * step + slab),
                          Tile(stage, slab, split_), sum[0], sum[1]);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      own[i / 4][i % 4] = sums[0][i / 4][i % 4] + sums[1][i / 4][i % 4];
    }
    return stage + Room::kSquare;
  }

  // own^T += U^T X^T for the warp's rows of a square X.
  __device__ void AddTokens(int room, const std::byte* square, OwnTokens& own) const {
#pragma unroll
    for (int j = 0; j < kSplits; ++j) {
      MmaOfTile<kParts>(splits_.Take(room, j), Tile(square, j, split_), own[0], own[1]);
    }
  }

  // u of the warp's entries.
  __device__ void Erase(int chunk, int state_room, OwnTokens& own) {
    const std::byte* const square = ReadState(state_room, own);
    SubtractFromValues(chunk, own);
    splits_.Give(0, SplitA<kParts>(own[0], own[1]));
    splits_.Sync();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      own[i / 4][i % 4] = 0;
    }
    AddTokens(0, square, own);
    stream_.Free();
    if constexpr (Splits::kRooms == 1) {
      splits_.Sync();
    }
  }

  // Takes a segment of the chunk's entries in: steps [begin, end) of 16.
  __device__ void Fold(int room, int segment, int begin, int end) {
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      const int first = split_ * Shape::kSlabs;  // of the step
      const std::byte* const stage = stream_.Next() + first / kMmas * Room::kFoldStage;
      const auto* decays = reinterpret_cast<const float*>(stage + Room::kStage) + segment * kSlice +
                           first % kMmas * kMma + 2 * t_;
#pragma unroll
      for (int slab = 0; slab < Shape::kSlabs; ++slab) {
        // Added up by themselves: tensor cores cut their sums off, which would pull a state that
        // never forgets towards 0 with every product.
        float sums[2][4] = {};
#pragma unroll
        for (int j = 0; j < kMmas; ++j) {
          if (j >= begin && j < end) {
            MmaOfTile<kParts>(splits_.Take(room, j), Tile(stage, j, first % kMmas + slab), sums[0],
                              sums[1]);
          }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int tile = 2 * slab + half;
          lane_.FoldTile(2 * Shape::kSlabs * step + tile,
                         *reinterpret_cast<const float2*>(decays + 8 * tile), sums[half]);
        }
      }
      stream_.Free();
    }
    lane_.RoundState();
  }

  __device__ void StoreState() {
    HealthPart parts[2];
    lane_.StoreState(parts);
    splits_.Sum(parts);
    lane_.StoreHealth(parts, split_ == 0);
  }

  __device__ void Chunk(int chunk) {
    constexpr bool kOneRoom = Splits::kRooms == 1;
    const int state_room = kOneRoom ? 0 : chunk % 2;
    const int room = kOneRoom ? 0 : kErases ? 1 : chunk % 2;  // of what is written
    OwnTokens own = {};
    if constexpr (kOneRoom) {
      splits_.Sync();
    }
    GiveState(state_room);
    if constexpr (kErases) {
      splits_.Sync();
      Erase(chunk, state_room, own);
    } else {
      SubtractFromValues(chunk, own);
    }
    splits_.Give(room, SplitA<kParts>(own[0], own[1]));
    splits_.Sync();
    lane_.Keep(chunk, own);
#pragma unroll 1
    for (int query = 0; query < queries_; ++query) {
      const std::byte* const square = ReadState(state_room, own);
      AddTokens(room, square, own);
      stream_.Free();
      lane_.Write(chunk, query, own);
    }
    const int store = lane_.StoredSteps(chunk);
    int done = 0;
#pragma unroll 1
    for (int left = FoldedSegments(lane_.chunks(), chunk); left > 0; --left) {
      const bool stores = done < store;
      Fold(room, stores ? 0 : 1, done, stores ? store : kMmas);
      done = store;
      if (stores) {
        StoreState();
      }
    }
  }

  const int queries_;
  const Splits splits_;
  const int split_;  // which of the keys and entries are this warp's
  const int t_;
  const int in_block_;  // the lane's first column
  const int value_stride_;
  PassStream<Room> stream_;
  PassLane<Shape::kTiles, typename Shape::Keys> lane_;
};

template <int kKeys, bool kErases, int kParts>
__global__ void __launch_bounds__(PassShape<kKeys, kParts>::kMaxThreads)
    Pass(const __grid_constant__ PromptCall call, int buffers) {
  extern __shared__ __align__(128) std::byte shared[];
  using Room = typename PassShape<kKeys, kParts>::Room;
  const Room room(shared, buffers);
  room.Init();
  AwaitInputs();
  const auto head = static_cast<int>(blockIdx.y), prompt = static_cast<int>(blockIdx.z);
  if (room.Copies()) {
    PassSource<Room>(call, prompt, head, room).Run();
  } else {
    Passer<kKeys, kErases, kParts>(call, prompt, head, room).Run();
  }
}

// Of a block, in bytes.
int MostSharedBytes() {
  int device = 0, most = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return most;
}

template <int kKeys, bool kErases, int kParts>
void RunPass(const PromptCall& call, cudaStream_t stream) {
  using Shape = PassShape<kKeys, kParts>;
  const MemoryShape& shape = call.advance.args.shape;
  const auto kernel = Pass<kKeys, kErases, kParts>;
  // Warps of a block share what they read of the weights; blocks make use of the device.
  const unsigned others = static_cast<unsigned>(shape.heads * call.rows.count);
  const unsigned columns = CeilDiv(shape.value_dim, kPassColumns);
  const int most = MostSharedBytes();
  const auto blocks_of = [&](int groups) { return CeilDiv(columns, groups) * others; };
  int groups = Shape::kMaxGroups;
  while (groups > 1 &&
         (blocks_of(groups) < kLeastBlocks || Shape::Bytes(groups, Shape::kLeastBuffers) > most)) {
    groups /= 2;
  }
  // If there are enough multiprocessors, each block has the shared memory of one: two of them would
  // share one that is free first, while others have none.
  const bool alone = blocks_of(groups) <= static_cast<unsigned>(Multiprocessors());
  const int buffers = alone && Shape::Bytes(groups, Shape::kMostBuffers) <= most
                          ? Shape::kMostBuffers
                          : Shape::kLeastBuffers;
  const int bytes = alone ? most : Shape::Bytes(groups, buffers);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  const dim3 blocks(CeilDiv(columns, groups), static_cast<unsigned>(shape.heads),
                    static_cast<unsigned>(call.rows.count));
  Launch(kernel, {blocks, 32 * (kSplits * groups + kCopyWarps), static_cast<size_t>(bytes)}, stream,
         call, buffers);
}

// Calls visit.template operator()<kKeys, kParts>().
template <class Visit>
auto VisitPass(const WeightLayout& layout, const Visit& visit) {
  const auto with_parts = [&]<int kKeys>() {
    return layout.parts == kFastParts ? visit.template operator()<kKeys, kFastParts>()
                                      : visit.template operator()<kKeys, kExactParts>();
  };
  switch (kSlice * layout.slices) {
    case 64:
      return with_parts.template operator()<64>();
    case 128:
      return with_parts.template operator()<128>();
    default:
      return with_parts.template operator()<256>();
  }
}

}  // namespace

bool PassFits(const WeightLayout& layout) {
  const int least = VisitPass(layout, [&]<int kKeys, int kParts>() {
    using Shape = PassShape<kKeys, kParts>;
    return Shape::Bytes(1, Shape::kLeastBuffers);
  });
  return least <= MostSharedBytes();
}

void PassPrompts(const PromptCall& call, cudaStream_t stream) {
  VisitPass(call.layout, [&]<int kKeys, int kParts>() {
    if (call.layout.erases) {
      RunPass<kKeys, true, kParts>(call, stream);
    } else {
      RunPass<kKeys, false, kParts>(call, stream);
    }
  });
}

}  // namespace evenflow
