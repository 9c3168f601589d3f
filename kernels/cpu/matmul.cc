#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/step.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul.cc"
#include <hwy/aligned_allocator.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/matmul_few_rows-inl.h"

// Once, not for each instruction set.
#ifndef EVENFLOW_MATMUL_TILES
#define EVENFLOW_MATMUL_TILES

namespace evenflow {

constexpr int kTileRows = 4;
constexpr int64_t kBlockInputs = 1024;  // of K: a group's converted weights stay in the first cache
constexpr int64_t kBlockRows = 32;      // whose sums stay there too
// Packed inputs that stay in the second cache while all the outputs are computed from them.
constexpr int64_t kPanelFloats = int64_t{1} << 17;

// The thread's buffers for packed inputs and weights: they keep the size of the largest so far.
float* InputBuffer(size_t size);
float* WeightBuffer(size_t size);

}  // namespace evenflow

#endif  // EVENFLOW_MATMUL_TILES

HWY_BEFORE_NAMESPACE();

namespace evenflow {
namespace HWY_NAMESPACE {

constexpr int kTileOutputs = kLanes < 16 ? 3 : 6;  // as many as there are registers for the sums

// ---- Many rows: packed inputs, and blocks of weights that are converted once for all rows. ----

// A tile of packed inputs or weights is [kBlockInputs / kLanes, kTileRows or kTileOutputs, kLanes]:
// what the multiply-adds read is one stream each. What is missing at the edges is zero.
constexpr int64_t kInputTile = kBlockInputs * kTileRows;
constexpr int64_t kWeightTile = kBlockInputs * kTileOutputs;
constexpr int64_t kSumTile = kTileRows * kTileOutputs * kLanes;
constexpr int64_t kGroupTiles = kOutputGroup / kTileOutputs;

int64_t CeilDivide(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// from [count], a part of one stream of memory, goes to lane `which` of `of` of a tile.
template <class T>
HWY_INLINE void PackStrip(const T* from, int64_t count, int which, int of, float* to) {
  to += which * kLanes;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hwy::Prefetch(reinterpret_cast<const char*>(from + i) + kAheadBytes);
    hn::Store(LoadWeights(from + i), D(), to);
    to += of * kLanes;
  }
  if (kLanes > 1 && i < count) {
    hn::Store(LoadTail(from + i, count - i), D(), to);
  }
}

// A group of outputs, and a block of rows that it is computed for.
struct Block {
  int64_t first_tile = 0, tiles = 0;  // of rows
  int64_t first_output = 0, outputs = 0;
  float* weights = nullptr;  // [block of K, tile of outputs], the group's for all K
  HWY_ALIGN float sums[kBlockRows / kTileRows * kGroupTiles * kSumTile];
};

template <class T>
void PackWeights(const Product& p, Block& block) {
  for (int64_t n = 0; n < block.outputs; ++n) {
    const T* const from = static_cast<const T*>(p.w.data) + (block.first_output + n) * p.w.cols;
    float* to = block.weights + n / kTileOutputs * kWeightTile;
    for (int64_t k = 0; k < p.w.cols; k += kBlockInputs) {
      PackStrip(from + k, std::min(kBlockInputs, p.w.cols - k), static_cast<int>(n % kTileOutputs),
                kTileOutputs, to);
      to += kGroupTiles * kWeightTile;
    }
  }
}

// R rows by a tile of outputs, for a block of K: `stored` goes on from what it is, unless this is
// the first block.
template <int R>
HWY_INLINE void BlockTile(const float* HWY_RESTRICT x, const float* HWY_RESTRICT w, int64_t steps,
                          bool first, float* HWY_RESTRICT stored) {
  V sums[R][kTileOutputs];
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < kTileOutputs; ++n) {
      sums[r][n] = first ? hn::Zero(D()) : hn::Load(D(), stored + (r * kTileOutputs + n) * kLanes);
    }
  }
  for (int64_t step = 0; step < steps; ++step) {
    V weights[kTileOutputs];
    for (int n = 0; n < kTileOutputs; ++n) {
      weights[n] = hn::Load(D(), w + n * kLanes);
    }
    for (int r = 0; r < R; ++r) {
      const V input = hn::Load(D(), x + r * kLanes);
      for (int n = 0; n < kTileOutputs; ++n) {
        sums[r][n] = hn::MulAdd(input, weights[n], sums[r][n]);
      }
    }
    x += kTileRows * kLanes;
    w += kTileOutputs * kLanes;
  }
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < kTileOutputs; ++n) {
      hn::Store(sums[r][n], D(), stored + (r * kTileOutputs + n) * kLanes);
    }
  }
}

// The tile of rows `tile` of the block by all outputs of the group, for the block of K that begins
// at k.
template <int R>
void BlockTiles(const Product& p, Block& block, int64_t tile, int64_t k) {
  const int64_t steps = CeilDivide(std::min(kBlockInputs, p.w.cols - k), kLanes);
  const int64_t row_tiles = CeilDivide(p.rows, kTileRows);
  const int64_t at = block.first_tile + tile;
  const float* const x = p.packed + (k / kBlockInputs * row_tiles + at) * kInputTile;
  const float* w = block.weights + k / kBlockInputs * kGroupTiles * kWeightTile;
  float* sums = block.sums + tile * kGroupTiles * kSumTile;
  for (int64_t n = 0; n < block.outputs; n += kTileOutputs) {
    BlockTile<R>(x, w, steps, k == 0, sums);
    if (k + kBlockInputs >= p.w.cols) {
      for (int r = 0; r < R; ++r) {
        for (int64_t i = 0; i < std::min<int64_t>(kTileOutputs, block.outputs - n); ++i) {
          Finish(p, at * kTileRows + r, block.first_output + n + i,
                 hn::Load(D(), sums + (r * kTileOutputs + i) * kLanes));
        }
      }
    }
    w += kWeightTile;
    sums += kSumTile;
  }
}

void MultiplyBlock(const Product& p, Block& block) {
  for (int64_t k = 0; k < p.w.cols; k += kBlockInputs) {
    for (int64_t tile = 0; tile < block.tiles; ++tile) {
      switch (std::min<int64_t>(kTileRows, p.rows - (block.first_tile + tile) * kTileRows)) {
        case 1:
          BlockTiles<1>(p, block, tile, k);
          break;
        case 2:
          BlockTiles<2>(p, block, tile, k);
          break;
        case 3:
          BlockTiles<3>(p, block, tile, k);
          break;
        default:
          BlockTiles<kTileRows>(p, block, tile, k);
      }
    }
  }
}

// The outputs [first, last) for a panel of rows, given in tiles.
template <class T>
void PanelOutputs(const Product& p, int64_t first_tile, int64_t last_tile, int64_t first,
                  int64_t last) {
  constexpr int64_t kBlockTiles = kBlockRows / kTileRows;
  Block block;
  block.weights = WeightBuffer(
      static_cast<size_t>(CeilDivide(p.w.cols, kBlockInputs) * kGroupTiles * kWeightTile));
  for (int64_t output = first; output < last; output += kOutputGroup) {
    block.first_output = output;
    block.outputs = std::min(kOutputGroup, last - output);
    PackWeights<T>(p, block);
    for (int64_t tile = first_tile; tile < last_tile; tile += kBlockTiles) {
      block.first_tile = tile;
      block.tiles = std::min(kBlockTiles, last_tile - tile);
      MultiplyBlock(p, block);
    }
  }
}

template <class T>
void BlockedOutputs(const Product& p, int64_t first, int64_t last) {
  const int64_t tiles = CeilDivide(p.rows, kTileRows);
  const int64_t blocks = std::max<int64_t>(2, kPanelFloats / (kBlockRows * p.w.cols));
  const int64_t panel = blocks * kBlockRows / kTileRows;
  for (int64_t tile = 0; tile < tiles; tile += panel) {
    PanelOutputs<T>(p, tile, std::min(tiles, tile + panel), first, last);
  }
}

template <class T>
void Multiply(const Product& p, int64_t first, int64_t last) {
  switch (p.rows) {
    case 1:
      return DirectOutputs<1, T>(p, first, last);
    case 2:
      return DirectOutputs<2, T>(p, first, last);
    case 3:
      return DirectOutputs<3, T>(p, first, last);
    case 4:
      return DirectOutputs<4, T>(p, first, last);
    default:
      return BlockedOutputs<T>(p, first, last);
  }
}

void MultiplyWeights(const Product& p, int64_t first, int64_t last) {
  if (p.w.dtype == DType::kBF16) {
    Multiply<Bf16>(p, first, last);
  } else {
    Multiply<float>(p, first, last);
  }
}

// Packs the rows [kTileRows tile, ...) of a product's inputs.
void PackTile(const Product& p, int64_t tile, float* packed) {
  const int64_t row_tiles = CeilDivide(p.rows, kTileRows);
  const int64_t rows = std::min<int64_t>(kTileRows, p.rows - tile * kTileRows);
  for (int64_t k = 0; k < p.w.cols; k += kBlockInputs) {
    float* const to = packed + (k / kBlockInputs * row_tiles + tile) * kInputTile;
    for (int r = 0; r < rows; ++r) {
      PackStrip(p.x + (tile * kTileRows + r) * p.x_stride + k, std::min(kBlockInputs, p.w.cols - k),
                r, kTileRows, to);
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace evenflow

HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace evenflow {

HWY_EXPORT(MultiplyWeights);
HWY_EXPORT(PackTile);

namespace {

class GrowingBuffer {
 public:
  float* Get(size_t size) {
    if (size_ < size) {
      data_ = hwy::AllocateAligned<float>(size);
      size_ = size;
    }
    return data_.get();
  }

 private:
  hwy::AlignedFreeUniquePtr<float[]> data_;
  size_t size_ = 0;
};

}  // namespace

float* InputBuffer(size_t size) {
  thread_local GrowingBuffer buffer;
  return buffer.Get(size);
}

float* WeightBuffer(size_t size) {
  thread_local GrowingBuffer buffer;
  return buffer.Get(size);
}

void PackInputs(Product& product, WorkerPool* pool) {
  if (product.rows <= kTileRows) {
    return;  // read where they are
  }
  const int64_t tiles = (product.rows + kTileRows - 1) / kTileRows;
  const int64_t blocks = (product.w.cols + kBlockInputs - 1) / kBlockInputs;
  float* const packed = InputBuffer(static_cast<size_t>(tiles * blocks * kTileRows * kBlockInputs));
  product.packed = packed;
  const auto pack = [&](int tile) { HWY_DYNAMIC_DISPATCH(PackTile)(product, tile, packed); };
  if (pool != nullptr) {
    pool->For(static_cast<int>(tiles), pack);
  } else {
    for (int tile = 0; tile < tiles; ++tile) {
      pack(tile);
    }
  }
}

void MultiplyOutputs(const Product& product, int64_t first, int64_t last) {
  if (product.rows > 0) {
    HWY_DYNAMIC_DISPATCH(MultiplyWeights)(product, first, last);
  }
}

void CpuMatMul(const MatMulArgs& args, const CpuStep& step, WorkerPool& pool) {
  const bool logits = args.tokens == TokenSet::kLogits;
  Product product{
      .x = static_cast<const float*>(args.x.data),
      .x_stride = args.x.stride,
      .rows = static_cast<int64_t>(logits ? step.logit_tokens.size() : step.tokens.size()),
      .w = args.w,
      .bias = args.bias,
      .y = static_cast<float*>(args.y.data),
      .y_stride = args.y.stride,
      .add = args.add};
  // A share should last some ten microseconds at least; several for each thread even out what else
  // the machine does.
  constexpr int64_t kShareProducts = 1 << 17;
  constexpr int64_t kSharesPerThread = 8;
  PackInputs(product, &pool);
  const int64_t groups = (args.w.rows + kOutputGroup - 1) / kOutputGroup;
  const int64_t shares =
      std::clamp<int64_t>(args.w.rows * args.w.cols * product.rows / kShareProducts, 1,
                          std::min(groups, kSharesPerThread * pool.threads()));
  pool.For(static_cast<int>(shares), [&](int share) {
    const auto begin = [&](int64_t i) {
      return std::min(groups * i / shares * kOutputGroup, args.w.rows);
    };
    MultiplyOutputs(product, begin(share), begin(share + 1));
  });
}

}  // namespace evenflow

#endif  // HWY_ONCE
