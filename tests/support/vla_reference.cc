#include "tests/support/vla_reference.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace evenflow {
namespace {

using Vector = VlaReference::Vector;

double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

Vector Over(Vector x, double divisor) {
  for (double& value : x) {
    value /= divisor;
  }
  return x;
}

Vector Unit(const Vector& x, double minimum) {
  return Over(x, std::max(std::sqrt(Dot(x, x)), minimum));
}

Vector Elu1(Vector x) {
  for (double& value : x) {
    value = value > 0 ? value + 1 : std::exp(value);
  }
  return x;
}

// S^T x, S [key_dim, value_dim]
Vector Read(const Vector& s, const Vector& x) {
  const size_t columns = s.size() / x.size();
  Vector read(columns);
  for (size_t i = 0; i < s.size(); ++i) {
    read[i % columns] += x[i / columns] * s[i];
  }
  return read;
}

}  // namespace

VlaReference::VlaReference(const Preconditioner& preconditioner, Vector u_weight)
    : of_(preconditioner), u_weight_(std::move(u_weight)) {
  const auto dim = static_cast<size_t>(of_.key_dim);
  a_.assign(dim * dim, 0);
  z_.assign(dim, 0);
  for (size_t i = 0; i < dim; ++i) {
    a_[i * dim + i] = 1 / of_.lambda0;
  }
}

Vector VlaReference::Times(const Vector& x) const {
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < x.size(); ++j) {
      y[i] += a_[i * x.size() + j] * x[j];
    }
  }
  return y;
}

Vector VlaReference::Penalize(const Vector& x, double minimum) {
  const Vector y = Times(x);
  const double denominator = std::max(1 + Dot(x, y), minimum);
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < x.size(); ++j) {
      a_[i * x.size() + j] -= y[i] * y[j] / denominator;
    }
  }
  return Times(x);
}

VlaReference::Token VlaReference::Next(Vector k, Vector q, double b) {
  if (of_.mode == PreconditionMode::kV3) {
    return NextV3(std::move(k), std::move(q));
  }
  k = Unit(k, 1e-6);
  a_ = Over(std::move(a_), of_.mu);
  Token token;
  Vector leak(k.size());
  leak[static_cast<size_t>(position_++ % of_.key_dim)] =
      std::sqrt((1 - of_.mu) * of_.lambda0 * of_.key_dim);
  const Vector leaked = of_.mu < 1 ? Penalize(leak, 1) : Vector(k.size());
  if (of_.mode == PreconditionMode::kRls) {
    token.entries.push_back({leaked, of_.mu < 1 ? leak : Vector(k.size()), 1, false});
  }
  Penalize(k, 1);
  const Vector a = Times(k);
  const Vector w = Unit(a, 1e-12);
  token.q = q;
  switch (of_.mode) {
    case PreconditionMode::kStar:
      token.entries.push_back({w, w, b * Dot(k, w), true});
      token.q = Unit(Times(q), 1e-12);
      break;
    case PreconditionMode::kSym:
      token.entries.push_back({w, w, b, true});
      token.q = Unit(Times(q), 1e-12);
      break;
    case PreconditionMode::kUnit:
      token.entries.push_back({w, k, b, true});
      break;
    case PreconditionMode::kExact:
      token.entries.push_back({Over(a, std::max(Dot(k, a), 1e-12)), k, b, true});
      break;
    case PreconditionMode::kRls:
    case PreconditionMode::kV3:
      token.entries.push_back({a, k, b, true});
      break;
  }
  return token;
}

VlaReference::Token VlaReference::NextV3(Vector k, Vector q) {
  const size_t dim = k.size();
  Vector u(dim);
  for (size_t i = 0; i < dim; ++i) {
    u[i] = Dot({u_weight_.begin() + static_cast<ptrdiff_t>(i * dim),
                u_weight_.begin() + static_cast<ptrdiff_t>((i + 1) * dim)},
               k);
  }
  Penalize(Over(Unit(u, 1e-6), std::sqrt(static_cast<double>(dim))), 1e-4);
  if (++position_ % 20 == 0) {
    for (size_t i = 0; i < dim; ++i) {
      a_[i * dim + i] += 1e-3;
    }
  }
  k = Elu1(std::move(k));
  q = Elu1(std::move(q));
  for (size_t i = 0; i < dim; ++i) {
    z_[i] += k[i];
  }
  const Vector key = Unit(k, 1e-6);
  Token token;
  token.entries.push_back({Unit(Times(key), 1e-12), key, 1, true});
  token.q = Over(q, std::max(Dot(z_, q), 1e-6));
  return token;
}

MemoryReference RunVlaReference(const MemorySetup& setup, const MemoryInputs& inputs,
                                int state_tokens) {
  const auto heads = static_cast<size_t>(setup.shape.heads);
  const auto slice = [&](const std::vector<float>& from, size_t index, int dim) {
    const auto begin = from.begin() + static_cast<ptrdiff_t>(index) * dim;
    return Vector(begin, begin + dim);
  };
  const auto size = static_cast<size_t>(setup.shape.key_dim * setup.shape.value_dim);
  std::vector<Vector> states(heads, Vector(size));
  std::vector<VlaReference> of(heads, VlaReference(setup.preconditioner()));
  Vector peaks(heads);
  MemoryReference result;
  for (int t = 0; t < inputs.tokens; ++t) {
    for (size_t h = 0; h < heads; ++h) {
      const size_t index = static_cast<size_t>(t) * heads + h;
      Vector& s = states[h];
      s = Over(std::move(s), std::exp(-static_cast<double>(inputs.log_decay[h])));
      const Vector v = slice(inputs.v, index, setup.shape.value_dim);
      const VlaReference::Token token = of[h].Next(slice(inputs.k, index, setup.shape.key_dim),
                                                   slice(inputs.q, index, setup.shape.key_dim),
                                                   static_cast<double>(inputs.beta[index]));
      for (const VlaReference::Entry& entry : token.entries) {
        const Vector erased = Read(s, entry.e);
        for (size_t i = 0; i < size; ++i) {
          const size_t c = i % v.size();
          s[i] +=
              entry.w[i / v.size()] * entry.beta * ((entry.writes_value ? v[c] : 0) - erased[c]);
        }
      }
      const Vector read = Read(s, token.q);
      result.outputs.insert(result.outputs.end(), read.begin(), read.end());
      result.norms.push_back(std::sqrt(Dot(s, s)));
      peaks[h] = std::max(peaks[h], result.norms.back());
      result.peak_norms.push_back(peaks[h]);
    }
    if (t + 1 == state_tokens) {
      for (const Vector& s : states) {
        result.states.insert(result.states.end(), s.begin(), s.end());
      }
    }
  }
  return result;
}

}  // namespace evenflow
