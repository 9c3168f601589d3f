// The first stage of VLA (arXiv 2605.11196): a plane A [d_k, d_k] a
// head, the inverse of what the keys so far sum up to, turns a token's key, query and write
// strength into what its memory (kernels/memories/vla_*.h) writes, erases and reads with.
//
// With k^ = k / max(|k|, 1e-6), p = sqrt((1 - mu) lambda0 d_k) and i = position mod d_k:
//     A <- A / mu                                  forgetting; A = I / lambda0 before token 0
//     A <- A - (A x)(A x)^T / (1 + x.A x)          for x = p e_i, the leak (unless mu = 1), then k^
//     a = A k^;  c = k^.a / |a|
// so that A^-1 is the exponentially weighted sum of k^ k^^T and a rotating lambda0 I, and the
// condition number of A is bounded for ever. Modes differ in what they make of a:
//     kStar    w = e = a / |a|                beta = b c   q' = A q / |A q|
//     kSym     w = e = a / |a|                beta = b     q' = A q / |A q|
//     kUnit    w = a / |a|,        e = k^     beta = b     q' = q
//     kExact   w = a / (k^.a),     e = k^     beta = b     q' = q
//     kRls     w = a,              e = k^     beta = b     q' = q
//              and before it the entry (w = A p e_i, e = p e_i) without a value: S stays the least
//              squares fit, recursively
//     kV3      the authors' code: with f = elu + 1, k^ of f(k) and u = W_u k / max(|.|, 1e-6) /
//              sqrt(d_k), A <- A - (A u)(A u)^T / max(1 + u.A u, 1e-4); A <- A + 1e-3 I after every
//              20th token; w = a / |a|, e = k^, beta = 1; z <- z + f(k);
//              q' = f(q) / max(z.f(q), 1e-6)
// (divisors are at least 1e-12 where nothing else is said).
//
// As with S, tokens are read from the plane at their block's start and the rows since:
//     A_i x = m_i (A_0 x - sum_j r_j (r_j . x)),  m_i = mu^-i        r = A x' sqrt(m / (1 + x'.A
//     x'))
// and the stored plane lags behind by up to R tokens (kernels/memory.h).
#ifndef EVENFLOW_KERNELS_PRECONDITION_H_
#define EVENFLOW_KERNELS_PRECONDITION_H_

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/operations.h"

namespace evenflow {

enum class PreconditionMode : uint8_t { kStar, kSym, kUnit, kExact, kRls, kV3 };

struct Preconditioner {
  PreconditionMode mode = PreconditionMode::kStar;
  double lambda0 = 0.5;  // > 0
  double mu = 0.99;      // (0, 1]; unused by kV3
  int heads = 0;         // of states, keys and queries alike
  int key_dim = 0;       // d_k
};

inline constexpr PreconditionMode kPreconditionModes[] = {
    PreconditionMode::kStar,  PreconditionMode::kSym, PreconditionMode::kUnit,
    PreconditionMode::kExact, PreconditionMode::kRls, PreconditionMode::kV3};

// As in a model's config.
constexpr const char* Name(PreconditionMode mode) {
  constexpr const char* kNames[] = {"star", "sym", "unit", "exact", "rls", "v3"};
  return kNames[static_cast<int>(mode)];
}

// The memory that a mode's entries are for.
MemoryKind MemoryOf(PreconditionMode mode);

// Rows r that a token leaves: one for each x.
int RowsPerToken(const Preconditioner& preconditioner);

// The window of A. Its blocks are short enough for mu^-C not to exceed 4: what cancels in A_0 - sum
// r r^T costs no more than two bits.
Window WindowOf(const Preconditioner& preconditioner, const Window& window);

// Where a layer's part lies inside a slot: bytes from its offset, each 64-byte aligned, all fp32.
struct PreconditionLayout {
  size_t plane = 0;             // [heads, key_dim, key_dim]: A, symmetric to the bit
  size_t sums = 0;              // [heads, key_dim]: z (kV3)
  size_t committed_tokens = 0;  // int64 [heads], each as in MemoryLayout
  size_t rows = 0;              // [heads, ring, rows per token, key_dim]: r
  size_t keys = 0;              // [heads, ring, key_dim]: f(k) (kV3)
  size_t bytes = 0;             // all of it
};

PreconditionLayout LayoutOf(const Preconditioner& preconditioner, const Window& window);

struct PreconditionArgs {
  Preconditioner preconditioner;
  Window window;  // the memory's
  Slots slots;
  size_t layer_offset = 0;
  int memory_layer = 0;             // index in StepOutput::health, of A
  const float* u_weight = nullptr;  // [heads, key_dim, key_dim]: W_u (kV3)
  const float* k = nullptr;         // [token, heads, key_dim]; kV3: k and q before f
  // In place: q becomes q', b beta.
  float* q = nullptr;     // [token, heads, key_dim]
  float* beta = nullptr;  // [token, heads]
  // Outputs, an entry of the memory after the other.
  float* w = nullptr;  // [token, heads, entries, key_dim]
  float* e = nullptr;  // [token, heads, entries, key_dim]; kStar, kSym: not written
};

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_PRECONDITION_H_
