#include "tests/support/memory_reference.h"

#include <algorithm>
#include <cmath>

#include "tests/support/reference_state.h"
#include "tests/support/vla_reference.h"

namespace evenflow {
namespace {

using reference::Slice;
using reference::State;
using reference::Vector;

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
         memory == MemoryKind::kKimiDeltaRule || memory == MemoryKind::kLogLinearDeltaRule ||
         memory == MemoryKind::kKaczmarzDeltaRule;
}

// What the residual is written with.
double StepSize(const MemorySetup& setup, double beta, const Vector& key) {
  if (setup.memory != MemoryKind::kKaczmarzDeltaRule) {
    return beta;
  }
  double square = 0;
  for (const double x : key) {
    square += x * x;
  }
  return beta / (square + 1e-6);
}

// The state of a head, or its states by level where the memory is log-linear (arXiv 2605.06946):
// level 0 holds the newest token, level l > 0 up to 2^(l-1) tokens, the top one all others.
struct HeadStates {
  std::vector<State> levels;
  std::vector<int64_t> tokens;  // in each level

  // Empties level 0 for the next token: what is full goes up, as a binary counter carries.
  void Cascade() {
    for (size_t l = 0; l + 1 < levels.size() && tokens[l] == int64_t{1} << l; ++l) {
      levels[l + 1].Add(levels[l]);
      tokens[l + 1] += tokens[l];
      levels[l].s.assign(levels[l].s.size(), 0.0);
      tokens[l] = 0;
    }
  }
};

void Advance(const MemorySetup& setup, const MemoryInputs& inputs, int token, int head,
             HeadStates* states) {
  const MemoryShape& shape = setup.shape;
  const int key_head = head / (shape.heads / shape.key_heads);
  const int value_head = head / (shape.heads / shape.value_heads);
  const int key_index = token * shape.key_heads + key_head;
  const Vector gamma = Gamma(setup, inputs, token, head);
  if (setup.memory == MemoryKind::kGeneralizedDeltaRule) {
    State& state = states->levels[0];
    const Vector e = Slice(inputs.e, int64_t{token} * shape.heads + head, shape.key_dim);
    state.GeneralizedDelta(gamma, e, Slice(inputs.k, 2 * key_index, shape.key_dim));
    state.Write(Slice(inputs.k, 2 * key_index + 1, shape.key_dim),
                Slice(inputs.v, int64_t{token} * shape.value_heads + value_head, shape.value_dim));
    return;
  }
  const Vector k = Slice(inputs.k, key_index, shape.key_dim);
  states->Cascade();
  for (size_t l = 0; l < states->levels.size(); ++l) {
    State& state = states->levels[l];
    Vector v(static_cast<size_t>(shape.value_dim));
    if (l == 0) {
      v = Slice(inputs.v, int64_t{token} * shape.value_heads + value_head, shape.value_dim);
    }
    state.Decay(gamma);
    if (IsDeltaRule(setup.memory)) {
      const Vector recalled = state.Read(k);
      const double beta =
          StepSize(setup, inputs.beta[static_cast<size_t>(token * shape.heads + head)], k);
      for (size_t c = 0; c < v.size(); ++c) {
        v[c] = beta * (v[c] - recalled[c]);
      }
    }
    state.Write(k, v);
  }
  ++states->tokens[0];
}

// What the token reads a level with.
double LevelWeight(const MemorySetup& setup, const MemoryInputs& inputs, int token, int head,
                   size_t level) {
  const MemoryShape& shape = setup.shape;
  const size_t first = static_cast<size_t>((token * shape.heads + head) * shape.banks);
  return IsBanked(setup.memory) ? static_cast<double>(inputs.level_weights[first + level]) : 1;
}

// The levels that a block at the next token finds before it.
void AppendBanks(const MemorySetup& setup, HeadStates states, std::vector<double>* to) {
  size_t first = 0;
  if (IsBanked(setup.memory)) {
    states.Cascade();
    first = static_cast<size_t>(std::log2(setup.window.commit)) + 1;
    first = std::min(first, states.levels.size() - 1);
  }
  for (size_t l = first; l < states.levels.size(); ++l) {
    to->insert(to->end(), states.levels[l].s.begin(), states.levels[l].s.end());
  }
}

}  // namespace

MemoryReference RunReference(const MemorySetup& setup, const MemoryInputs& inputs,
                             int state_tokens) {
  if (setup.mode.has_value()) {
    return RunVlaReference(setup, inputs, state_tokens);
  }
  if (setup.memory == MemoryKind::kVort) {
    return RunPowerLawReference(setup, inputs, state_tokens);
  }
  const MemoryShape& shape = setup.shape;
  const auto levels = static_cast<size_t>(IsBanked(setup.memory) ? shape.banks : 1);
  const State zero{
      shape.key_dim, shape.value_dim,
      Vector(static_cast<size_t>(shape.key_dim) * static_cast<size_t>(shape.value_dim))};
  std::vector<HeadStates> states(
      static_cast<size_t>(shape.heads),
      {std::vector<State>(levels, zero), std::vector<int64_t>(levels, 0)});
  Vector peaks(states.size());
  MemoryReference result;
  for (int t = 0; t < inputs.tokens; ++t) {
    for (int h = 0; h < shape.heads; ++h) {
      HeadStates& head = states[static_cast<size_t>(h)];
      Advance(setup, inputs, t, h, &head);
      double norm = 0;
      for (size_t l = 0; l < levels; ++l) {
        norm += LevelWeight(setup, inputs, t, h, l) * head.levels[l].Norm();
      }
      double& peak = peaks[static_cast<size_t>(h)];
      peak = std::max(peak, norm);
      result.norms.push_back(norm);
      result.peak_norms.push_back(peak);
    }
    for (int o = 0; o < shape.output_heads(); ++o) {
      const int state_head = o / (shape.output_heads() / shape.heads);
      const int query_head = o / (shape.output_heads() / shape.query_heads);
      const Vector q = Slice(inputs.q, int64_t{t} * shape.query_heads + query_head, shape.key_dim);
      Vector sum(static_cast<size_t>(shape.value_dim));
      for (size_t l = 0; l < levels; ++l) {
        const double weight = LevelWeight(setup, inputs, t, state_head, l);
        const Vector read = states[static_cast<size_t>(state_head)].levels[l].Read(q);
        for (size_t c = 0; c < sum.size(); ++c) {
          sum[c] += weight * read[c];
        }
      }
      result.outputs.insert(result.outputs.end(), sum.begin(), sum.end());
    }
    if (t + 1 == state_tokens) {
      for (const HeadStates& head : states) {
        AppendBanks(setup, head, &result.states);
      }
    }
  }
  return result;
}

}  // namespace evenflow
