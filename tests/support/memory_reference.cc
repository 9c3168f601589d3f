#include "tests/support/memory_reference.h"

#include <algorithm>
#include <cmath>

namespace evenflow {
namespace {

using Vector = std::vector<double>;

Vector Slice(const std::vector<float>& from, int64_t index, int dim) {
  const auto begin = from.begin() + index * dim;
  return {begin, begin + dim};
}

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

  double Norm() const {
    double square = 0;
    for (const double x : s) {
      square += x * x;
    }
    return std::sqrt(square);
  }
};

// The factor of each key channel for that token and head.
Vector Gamma(const MemorySetup& setup, const MemoryInputs& inputs, int token, int head) {
  const int dim = setup.shape.key_dim;
  const int64_t index = int64_t{token} * setup.shape.heads + head;
  Vector log_decay(static_cast<size_t>(dim), 0.0);
  switch (DecayOf(setup.memory)) {
    case Decay::kNone:
      break;
    case Decay::kConstant:
      log_decay.assign(static_cast<size_t>(dim), inputs.log_decay[static_cast<size_t>(head)]);
      break;
    case Decay::kScalar:
      log_decay.assign(static_cast<size_t>(dim), inputs.log_decay[static_cast<size_t>(index)]);
      break;
    case Decay::kChannel:
      log_decay = Slice(inputs.log_decay, index, dim);
      break;
  }
  for (double& x : log_decay) {
    x = std::exp(x);
  }
  return log_decay;
}

bool IsDeltaRule(MemoryKind memory) {
  return memory == MemoryKind::kDeltaRule || memory == MemoryKind::kGatedDeltaRule ||
         memory == MemoryKind::kKimiDeltaRule;
}

}  // namespace

MemoryReference RunReference(const MemorySetup& setup, const MemoryInputs& inputs,
                             int state_tokens) {
  const MemoryShape& shape = setup.shape;
  std::vector<State> states(
      static_cast<size_t>(shape.heads),
      {shape.key_dim, shape.value_dim,
       Vector(static_cast<size_t>(shape.key_dim) * static_cast<size_t>(shape.value_dim))});
  Vector peaks(states.size());
  MemoryReference result;
  for (int t = 0; t < inputs.tokens; ++t) {
    for (int h = 0; h < shape.heads; ++h) {
      State& state = states[static_cast<size_t>(h)];
      const int key_head = h / (shape.heads / shape.key_heads);
      const int value_head = h / (shape.heads / shape.value_heads);
      const Vector k = Slice(inputs.k, int64_t{t} * shape.key_heads + key_head, shape.key_dim);
      Vector v = Slice(inputs.v, int64_t{t} * shape.value_heads + value_head, shape.value_dim);
      state.Decay(Gamma(setup, inputs, t, h));
      if (IsDeltaRule(setup.memory)) {
        const Vector recalled = state.Read(k);
        const double beta = inputs.beta[static_cast<size_t>(t * shape.heads + h)];
        for (size_t c = 0; c < v.size(); ++c) {
          v[c] = beta * (v[c] - recalled[c]);
        }
      }
      state.Write(k, v);
      double& peak = peaks[static_cast<size_t>(h)];
      peak = std::max(peak, state.Norm());
      result.norms.push_back(state.Norm());
      result.peak_norms.push_back(peak);
    }
    for (int o = 0; o < shape.output_heads(); ++o) {
      const int state_head = o / (shape.output_heads() / shape.heads);
      const int query_head = o / (shape.output_heads() / shape.query_heads);
      const Vector q = Slice(inputs.q, int64_t{t} * shape.query_heads + query_head, shape.key_dim);
      const Vector read = states[static_cast<size_t>(state_head)].Read(q);
      result.outputs.insert(result.outputs.end(), read.begin(), read.end());
    }
    if (t + 1 == state_tokens) {
      for (const State& state : states) {
        result.states.insert(result.states.end(), state.s.begin(), state.s.end());
      }
    }
  }
  return result;
}

}  // namespace evenflow
