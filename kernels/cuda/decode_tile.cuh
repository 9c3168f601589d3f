// A tile of the decode kernel: 32 columns of a head's state, and the entries before the token.
#ifndef EVENFLOW_KERNELS_CUDA_DECODE_TILE_CUH_
#define EVENFLOW_KERNELS_CUDA_DECODE_TILE_CUH_

#include "kernels/cuda/decode_plan.cuh"

namespace evenflow {

// A tile as a lane sees it.
template <class Shape>
struct DecodeTile {
  const char* data;
  int column;  // of the lane's quad, in the head
  int width;   // of the tile
  int quad;    // in the tile; one that others have, too, where the tile is narrow
  bool own;

  __device__ const float* Values() const {
    return reinterpret_cast<const float*>(data + StageLayout<Shape>::kValues) + kQuad * quad;
  }

  __device__ float4 Value(int entry) const {
    return *reinterpret_cast<const float4*>(Values() + entry * width);
  }

  __device__ void LoadRow(int row, float (&s)[kQuad]) const {
    const int element = (quad * Shape::kKeyDim + row) * kQuad;
    if constexpr (sizeof(typename Shape::State) == 4) {
      const float4 quad = *reinterpret_cast<const float4*>(data + 4 * element);
      s[0] = quad.x, s[1] = quad.y, s[2] = quad.z, s[3] = quad.w;
    } else {
      const uint2 quad = *reinterpret_cast<const uint2*>(data + 2 * element);
      s[0] = __uint_as_float(quad.x << 16);
      s[1] = __uint_as_float(quad.x & 0xffff0000u);
      s[2] = __uint_as_float(quad.y << 16);
      s[3] = __uint_as_float(quad.y & 0xffff0000u);
    }
  }
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CUDA_DECODE_TILE_CUH_
