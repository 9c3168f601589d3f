// Softmax attention of a few queries over the keys and values of one head, dispatched to the
// machine's widest instruction set (kernels/cpu/window_attention.cc). Pure functions of their
// arguments; any thread. A query's result does not depend on the others of its tile, nor on how its
// tokens are spread over spans.
#ifndef EVENFLOW_KERNELS_CPU_ATTENTION_TILE_H_
#define EVENFLOW_KERNELS_CPU_ATTENTION_TILE_H_

#include <cstdint>

namespace evenflow {

// Keys and values [dim] of adjacent tokens.
struct AttentionSpan {
  const float* keys = nullptr;
  const float* values = nullptr;
  int64_t stride = 0;  // floats from a token to the next
  int64_t count = 0;   // tokens
};

// y = sum_i p_i v_i, p = softmax(scale q . k_i), over tokens [begin, end) of the tile's spans.
struct AttentionQuery {
  const float* q = nullptr;
  int64_t begin = 0, end = 0;
  float* scores = nullptr;  // room for end - begin
  float* y = nullptr;
};

struct AttentionTile {
  AttentionSpan spans[3];  // behind one another
  const AttentionQuery* queries = nullptr;
  int query_count = 0;
  int dim = 0;
  float scale = 1;
};

void Attend(const AttentionTile& tile);

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_CPU_ATTENTION_TILE_H_
