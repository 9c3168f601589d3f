// VLA's recurrence of A, one head, and of the memory behind it, in double precision and token by
// token, from the paper's equations and the definitions in kernels/precondition.h. Shares nothing
// with the kernels but the names of modes.
#ifndef EVENFLOW_TESTS_SUPPORT_VLA_REFERENCE_H_
#define EVENFLOW_TESTS_SUPPORT_VLA_REFERENCE_H_

#include <cstdint>
#include <vector>

#include "kernels/precondition.h"

#include "tests/support/memory_reference.h"

namespace evenflow {

class VlaReference {
 public:
  using Vector = std::vector<double>;

  // What a token's memory does: S <- S + w (beta (v - S^T e))^T, v = 0 where it writes no value.
  struct Entry {
    Vector w, e;
    double beta = 1;
    bool writes_value = true;
  };

  struct Token {
    std::vector<Entry> entries;
    Vector q;
  };

  // `u_weight` [key_dim, key_dim], of kV3.
  explicit VlaReference(const Preconditioner& preconditioner, Vector u_weight = {});

  // The next token's.
  Token Next(Vector k, Vector q, double b);

  // [key_dim, key_dim], after the last token.
  const Vector& a() const { return a_; }

 private:
  Vector Times(const Vector& x) const;               // A x
  Vector Penalize(const Vector& x, double minimum);  // into A; returns the new A x
  Token NextV3(Vector k, Vector q);

  Preconditioner of_;
  Vector u_weight_;
  Vector a_, z_;
  int64_t position_ = 0;
};

// As RunReference, where the setup has a mode.
MemoryReference RunVlaReference(const MemorySetup& setup, const MemoryInputs& inputs,
                                int state_tokens);

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_SUPPORT_VLA_REFERENCE_H_
