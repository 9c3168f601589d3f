// Where the elements of a memory lie inside a slot on CUDA devices. MemoryLayout (see
// kernels/operations.h) gives the parts' offsets and sizes; the order inside a part is this.
//
// The state of a head is cut into quads of 4 columns: [quad][key][4], the last quad as wide as what
// is left. A warp reads a quad with 16-byte accesses that lie side by side, and any number of
// adjacent quads is one piece of memory, so one bulk copy. Ring entries of values are cut into
// tiles of 16 columns: [tile][entry][16], the last tile as wide as what is left.
#ifndef EVENFLOW_KERNELS_CUDA_MEMORY_SLOT_H_
#define EVENFLOW_KERNELS_CUDA_MEMORY_SLOT_H_

#include <cstdint>

#include "kernels/math/host_device.h"

namespace evenflow {

inline constexpr int kQuad = 4;
inline constexpr int kTile = 16;

EVENFLOW_HOST_DEVICE inline int Least(int a, int b) {
  return a < b ? a : b;
}

// Columns of the quad or tile that begins at column `begin`.
EVENFLOW_HOST_DEVICE inline int QuadWidth(int value_dim, int begin) {
  return Least(kQuad, value_dim - begin);
}

EVENFLOW_HOST_DEVICE inline int TileWidth(int value_dim, int begin) {
  return Least(kTile, value_dim - begin);
}

EVENFLOW_HOST_DEVICE inline int Quads(int value_dim) {
  return (value_dim + kQuad - 1) / kQuad;
}

EVENFLOW_HOST_DEVICE inline int Tiles(int value_dim) {
  return (value_dim + kTile - 1) / kTile;
}

// In elements from the head's state.
EVENFLOW_HOST_DEVICE inline int64_t StateIndex(int key_dim, int value_dim, int key, int column) {
  const int quad = column / kQuad * kQuad;
  return int64_t{quad} * key_dim + key * QuadWidth(value_dim, quad) + column - quad;
}

// In elements from the head's values; the ring has `entries`.
EVENFLOW_HOST_DEVICE inline int64_t ValueIndex(int entries, int value_dim, int entry, int column) {
  const int tile = column / kTile * kTile;
  return int64_t{tile} * entries + entry * TileWidth(value_dim, tile) + column - tile;
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_MEMORY_SLOT_H_
