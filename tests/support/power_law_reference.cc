#include <algorithm>
#include <cmath>

#include "tests/support/memory_reference.h"
#include "tests/support/reference_state.h"

namespace evenflow {
namespace {

using reference::Slice;
using reference::State;
using reference::Vector;

// w_k(alpha) of VORT, from the Gamma function.
double PowerLawWeight(int k, double alpha) {
  return std::exp(std::lgamma(k + alpha) - std::lgamma(alpha) - std::lgamma(k + 1.0));
}

// c_j(alpha): the table's points joined by lines.
double Coefficient(const PowerLaw& law, int node, double alpha) {
  const double at = (alpha - kTestAlphaMin) / (1 - kTestAlphaMin) * (PowerLaw::kPoints - 1);
  const int point = std::clamp(static_cast<int>(at), 0, PowerLaw::kPoints - 2);
  const auto value = [&](int of) {
    return static_cast<double>(law.coefficients[of * law.nodes + node]);
  };
  return value(point) + (at - point) * (value(point + 1) - value(point));
}

// One head: a state for each node, as of the newest token.
class Head {
 public:
  Head(const MemorySetup& setup, const MemoryInputs& inputs, int head)
      : setup_(setup),
        inputs_(inputs),
        head_(head),
        nodes_(static_cast<size_t>(law_.nodes),
               {setup.shape.key_dim, setup.shape.value_dim,
                Vector(static_cast<size_t>(setup.shape.key_dim) *
                       static_cast<size_t>(setup.shape.value_dim))}) {}

  void Write(int token) {
    for (int j = 0; j < law_.nodes; ++j) {
      State& state = nodes_[static_cast<size_t>(j)];
      const auto keys = static_cast<size_t>(setup_.shape.key_dim);
      state.Decay(Vector(keys, std::exp(-Rate(j))));
      Vector v = Value(token);
      for (double& x : v) {
        x *= Coefficient(law_, j, Alpha(token));
      }
      state.Write(Key(token), v);
    }
  }

  // o of a query that the token asks.
  Vector Read(int token, const Vector& q) {
    Vector o(static_cast<size_t>(setup_.shape.value_dim));
    for (State& state : nodes_) {
      Add(1, state.Read(q), &o);
    }
    ForNear(token, [&](int i, double exact, double approximate) {
      double score = 0;
      const Vector key = Key(i);
      for (size_t k = 0; k < key.size(); ++k) {
        score += key[k] * q[k];
      }
      Add((exact - approximate) * score, Value(i), &o);
    });
    return o;
  }

  double Norm(int token) {
    double norm = 0;
    for (const State& state : nodes_) {
      norm += state.Norm();
    }
    ForNear(token, [&](int i, double exact, double /*approximate*/) {
      double square = 0;
      for (const double v : Value(i)) {
        square += v * v;
      }
      norm += exact * std::sqrt(square);
    });
    return norm;
  }

  // The states after `tokens` tokens, a multiple of the window's commit, as they are stored.
  void AppendStates(int tokens, std::vector<double>* to) const {
    for (int j = 0; j < law_.nodes; ++j) {
      const int64_t position =
          PowerLawBanks::Reference(law_.rates[j], tokens, setup_.window.commit);
      const double shift = std::exp(-Rate(j) * static_cast<double>(position - (tokens - 1)));
      for (const double s : nodes_[static_cast<size_t>(j)].s) {
        to->push_back(s * shift);
      }
    }
  }

 private:
  double Rate(int node) const { return static_cast<double>(law_.rates[node]); }

  double Alpha(int token) const {
    return static_cast<double>(
        inputs_.beta[static_cast<size_t>(token * setup_.shape.heads + head_)]);
  }

  Vector Key(int token) const {
    const MemoryShape& shape = setup_.shape;
    const int key_head = head_ / (shape.heads / shape.key_heads);
    return Slice(inputs_.k, int64_t{token} * shape.key_heads + key_head, shape.key_dim);
  }

  Vector Value(int token) const {
    const MemoryShape& shape = setup_.shape;
    const int value_head = head_ / (shape.heads / shape.value_heads);
    return Slice(inputs_.v, int64_t{token} * shape.value_heads + value_head, shape.value_dim);
  }

  static void Add(double weight, const Vector& from, Vector* to) {
    for (size_t c = 0; c < from.size(); ++c) {
      (*to)[c] += weight * from[c];
    }
  }

  // Calls with each entry that the token reads one by one, its weight and that of the nodes.
  template <class Call>
  void ForNear(int token, const Call& call) const {
    for (auto i = static_cast<int>(setup_.window.Base(token)); i <= token; ++i) {
      double approximate = 0;
      for (int j = 0; j < law_.nodes; ++j) {
        approximate += Coefficient(law_, j, Alpha(i)) * std::exp(-Rate(j) * (token - i));
      }
      call(i, PowerLawWeight(token - i, Alpha(i)), approximate);
    }
  }

  const MemorySetup& setup_;
  const MemoryInputs& inputs_;
  const int head_;
  const PowerLaw law_ = TestPowerLaw();
  std::vector<State> nodes_;
};

}  // namespace

MemoryReference RunPowerLawReference(const MemorySetup& setup, const MemoryInputs& inputs,
                                     int state_tokens) {
  const MemoryShape& shape = setup.shape;
  std::vector<Head> heads;
  for (int h = 0; h < shape.heads; ++h) {
    heads.emplace_back(setup, inputs, h);
  }
  Vector peaks(heads.size());
  MemoryReference result;
  for (int t = 0; t < inputs.tokens; ++t) {
    for (size_t h = 0; h < heads.size(); ++h) {
      heads[h].Write(t);
      const double norm = heads[h].Norm(t);
      peaks[h] = std::max(peaks[h], norm);
      result.norms.push_back(norm);
      result.peak_norms.push_back(peaks[h]);
    }
    for (int o = 0; o < shape.output_heads(); ++o) {
      const int state_head = o / (shape.output_heads() / shape.heads);
      const int query_head = o / (shape.output_heads() / shape.query_heads);
      const Vector read = heads[static_cast<size_t>(state_head)].Read(
          t, Slice(inputs.q, int64_t{t} * shape.query_heads + query_head, shape.key_dim));
      result.outputs.insert(result.outputs.end(), read.begin(), read.end());
    }
    if (t + 1 == state_tokens) {
      for (const Head& head : heads) {
        head.AppendStates(state_tokens, &result.states);
      }
    }
  }
  return result;
}

}  // namespace evenflow
