#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/rotary.h"
#include "kernels/cpu/step.h"

namespace evenflow {
namespace {

constexpr int kQueries = 8;  // about as many share a pass over keys and values

// Queries and keys of a token, in place.
void RotateToken(const WindowAttentionArgs& args, const RotaryTable& rotary, float* projected) {
  for (int head = 0; head < args.heads; ++head) {
    rotary.Rotate(projected + args.q_column + int64_t{head} * args.head_dim);
  }
  for (int head = 0; head < args.key_heads; ++head) {
    rotary.Rotate(projected + args.k_column + int64_t{head} * args.head_dim);
  }
}

// One key head of one row: the ring of what came before the step, and the step's own tokens.
class HeadWindow {
 public:
  HeadWindow(const WindowAttentionArgs& args, const Row& row, int head)
      : args_(args),
        row_(row),
        column_(int64_t{head} * args.head_dim),
        keys_(reinterpret_cast<float*>(args.slots.base +
                                       static_cast<size_t>(row.slot) * args.slots.slot_bytes +
                                       args.ring_offset) +
              int64_t{head} * args.entries() * args.head_dim),
        values_(keys_ + int64_t{args.key_heads} * args.entries() * args.head_dim) {}

  // First position that the token at `position` sees.
  int64_t Begin(int64_t position) const {
    return std::max<int64_t>(0, position - args_.window + 1);
  }

  // Keys and values at positions [begin, end), begin within what the row's tokens see.
  void Spans(int64_t begin, int64_t end, AttentionSpan (&spans)[3]) const {
    const int64_t before = std::min(end, row_.position);
    const int64_t wrap = begin >= before
                             ? before
                             : std::min(before, begin + args_.entries() - begin % args_.entries());
    spans[0] = RingSpan(begin, wrap);
    spans[1] = RingSpan(wrap, before);
    const int64_t first = std::max(begin, row_.position);
    if (first < end) {
      const float* token = RowOf(args_.projected, row_.first_token + first - row_.position);
      spans[2] = {token + args_.k_column + column_, token + args_.v_column + column_,
                  args_.projected.stride, end - first};
    }
  }

  // The step's newest tokens into the ring, once no token reads its old entries any more.
  void Append() const {
    const int64_t end = row_.position + row_.tokens;
    const auto bytes = static_cast<size_t>(args_.head_dim) * sizeof(float);
    for (int64_t p = std::max(row_.position, end - args_.entries()); p < end; ++p) {
      const float* token = RowOf(args_.projected, row_.first_token + p - row_.position);
      const int64_t entry = p % args_.entries() * args_.head_dim;
      std::memcpy(keys_ + entry, token + args_.k_column + column_, bytes);
      std::memcpy(values_ + entry, token + args_.v_column + column_, bytes);
    }
  }

 private:
  AttentionSpan RingSpan(int64_t begin, int64_t end) const {
    if (begin >= end) {
      return {};
    }
    const int64_t entry = begin % args_.entries() * args_.head_dim;
    return {keys_ + entry, values_ + entry, args_.head_dim, end - begin};
  }

  const WindowAttentionArgs& args_;
  const Row& row_;
  const int64_t column_;  // of the head among keys or values
  float* const keys_;     // [entries, head_dim]
  float* const values_;   // likewise
};

// Tokens [first, first + count) of a row, for the queries of one key head.
struct TokenTile {
  const Row* row = nullptr;
  int first = 0;
  int count = 0;
};

void AttendTokens(const WindowAttentionArgs& args, const TokenTile& tokens, int key_head) {
  thread_local std::vector<float> scores;
  thread_local std::vector<AttentionQuery> queries;
  const HeadWindow window(args, *tokens.row, key_head);
  const int group = args.heads / args.key_heads;
  const int64_t first = tokens.row->position + tokens.first;
  const int64_t last = first + tokens.count - 1;
  const int64_t begin = window.Begin(first);
  const int64_t room = std::min<int64_t>(args.window, last + 1);
  scores.resize(static_cast<size_t>(room * group * tokens.count));
  queries.clear();
  for (int64_t position = first; position <= last; ++position) {
    const int64_t token = tokens.row->first_token + position - tokens.row->position;
    for (int i = 0; i < group; ++i) {
      const int64_t column = (int64_t{key_head} * group + i) * args.head_dim;
      queries.push_back({RowOf(args.projected, token) + args.q_column + column,
                         window.Begin(position) - begin, position + 1 - begin,
                         scores.data() + static_cast<int64_t>(queries.size()) * room,
                         MutableRowOf(args.y, token) + column});
    }
  }
  AttentionTile tile;
  window.Spans(begin, last + 1, tile.spans);
  tile.queries = queries.data();
  tile.query_count = static_cast<int>(queries.size());
  tile.dim = args.head_dim;
  tile.scale = 1 / std::sqrt(static_cast<float>(args.head_dim));
  Attend(tile);
}

std::vector<TokenTile> TilesOf(const WindowAttentionArgs& args, const CpuStep& step) {
  const int size = std::max(1, kQueries * args.key_heads / args.heads);
  std::vector<TokenTile> tiles;
  for (const Row& row : step.rows) {
    for (int first = 0; first < row.tokens; first += size) {
      tiles.push_back({&row, first, std::min(size, row.tokens - first)});
    }
  }
  return tiles;
}

}  // namespace

void CpuWindowAttention(const WindowAttentionArgs& args, const CpuStep& step, WorkerPool& pool) {
  ForItems(pool, static_cast<int64_t>(step.tokens.size()),
           int64_t{args.heads + args.key_heads} * args.head_dim, [&](int64_t token) {
             thread_local RotaryTable rotary;
             rotary.SetPosition(args.rotary_base, args.head_dim,
                                step.positions[static_cast<size_t>(token)]);
             RotateToken(args, rotary, MutableRowOf(args.projected, token));
           });
  const std::vector<TokenTile> tiles = TilesOf(args, step);
  const auto tile_count = static_cast<int64_t>(tiles.size());
  const int64_t work = int64_t{args.window} * args.head_dim;
  ForItems(pool, tile_count * args.key_heads, work, [&](int64_t item) {
    AttendTokens(args, tiles[static_cast<size_t>(item % tile_count)],
                 static_cast<int>(item / tile_count));
  });
  if (args.entries() > 0) {
    const auto rows = static_cast<int64_t>(step.rows.size());
    ForItems(pool, rows * args.key_heads, args.head_dim, [&](int64_t item) {
      HeadWindow(args, step.rows[static_cast<size_t>(item / args.key_heads)],
                 static_cast<int>(item % args.key_heads))
          .Append();
    });
  }
}

}  // namespace evenflow
