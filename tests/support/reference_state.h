// Vectors and states of the references, in double precision. Tests only.
#ifndef EVENFLOW_TESTS_SUPPORT_REFERENCE_STATE_H_
#define EVENFLOW_TESTS_SUPPORT_REFERENCE_STATE_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace evenflow::reference {

using Vector = std::vector<double>;

inline Vector Slice(const std::vector<float>& from, int64_t index, int dim) {
  const auto begin = from.begin() + index * dim;
  return {begin, begin + dim};
}

inline Vector Scaled(Vector x, double factor) {
  for (double& value : x) {
    value *= factor;
  }
  return x;
}

// Key-major.
struct State {
  int key_dim, value_dim;
  Vector s;  // [key_dim, value_dim]

  double& At(int k, int c) { return s[static_cast<size_t>(k * value_dim + c)]; }

  Vector Read(const Vector& x) {
    Vector o(static_cast<size_t>(value_dim));
    for (int k = 0; k < key_dim; ++k) {
      for (int c = 0; c < value_dim; ++c) {
        o[static_cast<size_t>(c)] += x[static_cast<size_t>(k)] * At(k, c);
      }
    }
    return o;
  }

  void Decay(const Vector& gamma) {
    for (int k = 0; k < key_dim; ++k) {
      for (int c = 0; c < value_dim; ++c) {
        At(k, c) *= gamma[static_cast<size_t>(k)];
      }
    }
  }

  void Write(const Vector& key, const Vector& value) {
    for (int k = 0; k < key_dim; ++k) {
      for (int c = 0; c < value_dim; ++c) {
        At(k, c) += key[static_cast<size_t>(k)] * value[static_cast<size_t>(c)];
      }
    }
  }

  void Add(const State& other) {
    for (size_t i = 0; i < s.size(); ++i) {
      s[i] += other.s[i];
    }
  }

  // RWKV-7: S <- diag(gamma) S - p (S^T kappa)^T with kappa = gamma e.
  void GeneralizedDelta(const Vector& gamma, const Vector& e, const Vector& p) {
    Vector kappa = gamma;
    for (size_t k = 0; k < kappa.size(); ++k) {
      kappa[k] *= e[k];
    }
    const Vector recalled = Read(kappa);
    Decay(gamma);
    Write(p, Scaled(recalled, -1));
  }

  double Norm() const {
    double square = 0;
    for (const double x : s) {
      square += x * x;
    }
    return std::sqrt(square);
  }
};

}  // namespace evenflow::reference

#endif  // EVENFLOW_TESTS_SUPPORT_REFERENCE_STATE_H_
