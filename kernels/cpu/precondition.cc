// VLA's stage before the memory driver, head by head: kernels/precondition.h has the formulas.
// Tokens of a row that share a block read the plane together, in one pass; their rows, each of
// which depends on those before, then correct what was read.
#include "kernels/precondition.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/cpu/advance_rows.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/precondition_plane.h"
#include "kernels/cpu/state_pass.h"
#include "kernels/cpu/step.h"
#include "kernels/math/precondition.h"

namespace evenflow {
namespace {

float Dot(const float* a, const float* b, int dim) {
  float sum = 0;
  Dots(&a, 1, b, dim, &sum);
  return sum;
}

float Norm(const float* x, int dim) {
  return std::sqrt(Dot(x, x, dim));
}

// Buffers of a thread, kept from call to call.
struct Scratch {
  PreconditionPlane::Scratch plane;
  std::vector<float> keys;  // [token of a segment, key_dim]: k^
  std::vector<float> u;     // [token of a segment, key_dim]
  std::vector<float> products;
  std::vector<float> weights;
  std::vector<const float*> reads;
  std::vector<const float*> rows;  // of the block so far
};

class HeadPreconditioner {
 public:
  HeadPreconditioner(const PreconditionArgs& args, const Row& row, std::byte* layer, int head)
      : args_(args),
        mode_(args.preconditioner.mode),
        dim_(args.preconditioner.key_dim),
        size_(static_cast<size_t>(dim_)),
        row_(row),
        head_(head),
        plane_(args, layer, head, &scratch_.plane),
        window_(plane_.window()) {}

  // All tokens of the row. `health` [units of the head]: of A, if more of it has been stored.
  void Run(UnitHealth* health) {
    if (row_.position == 0) {
      plane_.Begin();
    }
    if (plane_.stored() < 0 || plane_.stored() > window_.Block(row_.position)) {
      std::abort();  // a slot that holds no session, or one set back by more than the window allows
    }
    const int64_t end = row_.position + row_.tokens;
    for (int64_t p = row_.position; p < end;) {
      const int64_t segment_end = std::min(end, window_.Block(p) + window_.commit);
      plane_.SetBase(window_.Block(p), std::max(plane_.stored(), window_.Stored(segment_end - 1)),
                     health);
      ReadBase(p, segment_end);
      for (int64_t at = p; at < segment_end; ++at) {
        Token(at, static_cast<int>(at - p));
      }
      p = segment_end;
    }
  }

 private:
  bool v3() const { return mode_ == PreconditionMode::kV3; }

  bool maps_queries() const {
    return mode_ == PreconditionMode::kStar || mode_ == PreconditionMode::kSym;
  }

  bool leaks() const { return plane_.rows_per_token() == 2; }

  int reads_per_token() const { return maps_queries() || v3() ? 2 : 1; }

  // The index of the token at `p` among [token, heads].
  int64_t Index(int64_t p) const {
    const int64_t token = row_.first_token + p - row_.position;
    return token * args_.preconditioner.heads + head_;
  }

  float* Query(int64_t p) const { return args_.q + Index(p) * dim_; }

  // Prepares the tokens [begin, end) of one block and multiplies A, as of its start, with what they
  // read.
  void ReadBase(int64_t begin, int64_t end) {
    const auto tokens = static_cast<size_t>(end - begin);
    scratch_.keys.resize(tokens * size_);
    scratch_.u.resize(v3() ? tokens * size_ : 0);
    scratch_.reads.clear();
    for (int64_t p = begin; p < end; ++p) {
      const auto at = static_cast<size_t>(p - begin) * size_;
      float* key = scratch_.keys.data() + at;
      const float* from = args_.k + Index(p) * dim_;
      if (v3()) {
        PrepareV3(p, from, scratch_.u.data() + at);
        scratch_.reads.push_back(scratch_.u.data() + at);
        from = plane_.MappedKey(p);
      }
      Scale(1 / std::max(Norm(from, dim_), kMinKeyNorm), from, dim_, key);
      scratch_.reads.push_back(key);
      if (maps_queries()) {
        scratch_.reads.push_back(Query(p));
      }
    }
    scratch_.products.resize(scratch_.reads.size() * size_);
    StatePass pass;
    pass.state = const_cast<float*>(plane_.base());  // only read
    pass.key_dim = pass.stride = pass.columns = dim_;
    pass.reads = static_cast<int>(scratch_.reads.size());
    pass.x = scratch_.reads.data();
    pass.products = scratch_.products.data();
    PassState(pass);

    scratch_.rows.clear();
    for (int64_t p = window_.Block(begin); p < begin; ++p) {
      for (int row = 0; row < plane_.rows_per_token(); ++row) {
        scratch_.rows.push_back(plane_.Row(p, row));
      }
    }
  }

  // u, and f(k) and f(q) in their places.
  void PrepareV3(int64_t p, const float* k, float* u) {
    const float* weight = args_.u_weight + int64_t{head_} * dim_ * dim_;
    for (int i = 0; i < dim_; ++i) {
      u[i] = Dot(weight + int64_t{i} * dim_, k, dim_);
    }
    const float norm = std::max(Norm(u, dim_), kMinKeyNorm);
    Scale(1 / (norm * std::sqrt(static_cast<float>(dim_))), u, dim_, u);
    std::memcpy(plane_.MappedKey(p), k, size_ * sizeof(float));
    Activate(Activation::kElu1, plane_.MappedKey(p), dim_);
    Activate(Activation::kElu1, Query(p), dim_);
  }

  // y, which is A_0 x, becomes A x / m with the rows so far.
  void Correct(const float* x, float* y) {
    const auto count = static_cast<int>(scratch_.rows.size());
    scratch_.weights.resize(scratch_.rows.size());
    Dots(scratch_.rows.data(), count, x, dim_, scratch_.weights.data());
    SubtractRows(y);
  }

  // y <- y - sum_j weights_j r_j
  void SubtractRows(float* y) {
    for (float& weight : scratch_.weights) {
      weight = -weight;
    }
    AddRows(
        {1, scratch_.weights.data(), scratch_.rows.data(), static_cast<int>(scratch_.rows.size())},
        y, dim_);
  }

  // Appends the row of x with y = A x / m; returns what makes A x, with x in A, of y.
  float Append(float* row, const float* y, float x_y, float growth) {
    const float denominator = Denominator(mode_, growth, x_y);
    Scale(std::sqrt(growth / denominator), y, dim_, row);
    scratch_.rows.push_back(row);
    return growth / denominator;
  }

  void Token(int64_t p, int index) {
    const float growth = Growth(args_.preconditioner, p - window_.Block(p) + 1);
    const int entries = mode_ == PreconditionMode::kRls ? 2 : 1;
    float* w = args_.w + Index(p) * entries * dim_;
    float* e = args_.e == nullptr ? nullptr : args_.e + Index(p) * entries * dim_;
    if (leaks()) {
      Leak(p, growth, w, e);
    } else if (entries == 2) {
      std::fill_n(w, dim_, 0.0f);
      std::fill_n(e, dim_, 0.0f);
    }
    if (entries == 2) {
      w += dim_;
      e += dim_;
    }
    const int read = index * reads_per_token();
    const float* x = scratch_.reads[static_cast<size_t>(read)];
    const float* key = scratch_.keys.data() + ptrdiff_t{index} * dim_;
    float* y = scratch_.products.data() + ptrdiff_t{read} * dim_;
    float* row = plane_.Row(p, plane_.rows_per_token() - 1);
    Correct(x, y);
    if (v3()) {
      AddScaled(Nudges(window_.Block(p), p), x, y);
      Append(row, y, Dot(x, y, dim_), growth);
      Correct(key, y + dim_);
      AddScaled(Nudges(window_.Block(p), p + 1), key, y + dim_);
      Write(p, key, {y + dim_, 1}, w, e);
      NormaliseQuery(p);
    } else {
      const float factor = Append(row, y, Dot(x, y, dim_), growth);
      Write(p, key, {y, factor}, w, e);
    }
    if (maps_queries()) {
      MapQuery(p, growth, y + dim_);
    }
  }

  // The leak's row and, for kRls, its entry.
  void Leak(int64_t p, float growth, float* w, float* e) {
    const float size = LeakSize(args_.preconditioner);
    const auto i = static_cast<size_t>(p % dim_);
    float* row = plane_.Row(p, 0);
    Scale(size, plane_.base() + i * size_, dim_, row);
    scratch_.weights.resize(scratch_.rows.size());
    for (size_t j = 0; j < scratch_.rows.size(); ++j) {
      scratch_.weights[j] = size * scratch_.rows[j][i];
    }
    SubtractRows(row);
    const float factor = Append(row, row, size * row[i], growth);
    if (mode_ == PreconditionMode::kRls) {
      // The row is sqrt(factor) y.
      Scale(std::sqrt(factor), row, dim_, w);
      std::fill_n(e, dim_, 0.0f);
      e[i] = size;
    }
  }

  // y <- y + factor x
  void AddScaled(float factor, const float* x, float* y) const {
    for (int i = 0; i < dim_; ++i) {
      y[i] += factor * x[i];
    }
  }

  // A k^ as a multiple of a vector.
  struct Direction {
    const float* y;
    float factor;
  };

  void Write(int64_t p, const float* key, const Direction& a, float* w, float* e) {
    float* beta = args_.beta + Index(p);
    const float norm = a.factor * Norm(a.y, dim_);
    float divisor = std::max(norm, kMinDirectionNorm);
    if (mode_ == PreconditionMode::kExact) {
      divisor = std::max(a.factor * Dot(key, a.y, dim_), kMinDirectionNorm);
    } else if (mode_ == PreconditionMode::kRls) {
      divisor = 1;
    }
    Scale(a.factor / divisor, a.y, dim_, w);
    if (mode_ == PreconditionMode::kStar) {
      *beta *= Dot(key, w, dim_);
    } else if (v3()) {
      *beta = 1;
    }
    if (!maps_queries()) {
      std::memcpy(e, key, size_ * sizeof(float));
    }
  }

  // q <- A q / |A q|
  void MapQuery(int64_t p, float growth, float* y) {
    float* q = Query(p);
    Correct(q, y);
    Scale(growth / std::max(growth * Norm(y, dim_), kMinDirectionNorm), y, dim_, q);
  }

  // f(q) <- f(q) / max(z.f(q), 1e-6)
  void NormaliseQuery(int64_t p) {
    float* q = Query(p);
    float sum = Dot(plane_.base_sums(), q, dim_);
    for (int64_t j = window_.Block(p); j <= p; ++j) {
      sum += Dot(plane_.MappedKey(j), q, dim_);
    }
    Scale(1 / std::max(sum, kMinNormaliser), q, dim_, q);
  }

  static Scratch& ThreadScratch() {
    static thread_local Scratch scratch;
    return scratch;
  }

  const PreconditionArgs& args_;
  const PreconditionMode mode_;
  const int dim_;
  const size_t size_;
  const Row& row_;
  const int head_;
  Scratch& scratch_ = ThreadScratch();
  PreconditionPlane plane_;
  const Window window_;
};

}  // namespace

void CpuPrecondition(const PreconditionArgs& args, CpuStep& step, WorkerPool& pool) {
  const int heads = args.preconditioner.heads;
  const int units = Units(args.preconditioner.key_dim);
  const size_t committed = LayoutOf(args.preconditioner, args.window).committed_tokens;
  const auto layer_of = [&](const Row& row) {
    return args.slots.base + static_cast<size_t>(row.slot) * args.slots.slot_bytes +
           args.layer_offset;
  };
  // Of the first head; all are stored together.
  const auto stored = [&](const Row& row) {
    return *reinterpret_cast<const int64_t*>(layer_of(row) + committed);
  };
  std::vector<int64_t> before;
  for (const Row& row : step.rows) {
    before.push_back(row.position == 0 ? 0 : stored(row));
  }
  std::vector<UnitHealth> health(step.rows.size() * static_cast<size_t>(heads * units));
  pool.For(static_cast<int>(step.rows.size()) * heads, [&](int task) {
    const Row& row = step.rows[static_cast<size_t>(task / heads)];
    HeadPreconditioner(args, row, layer_of(row), task % heads)
        .Run(health.data() + ptrdiff_t{task} * units);
  });
  for (size_t r = 0; r < step.rows.size(); ++r) {
    if (stored(step.rows[r]) > before[r]) {
      step.health(r, args.memory_layer) =
          SumUnits(health.data() + r * static_cast<size_t>(heads * units), heads * units);
    }
  }
}

}  // namespace evenflow
