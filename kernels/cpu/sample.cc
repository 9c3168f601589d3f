#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/logits.h"
#include "kernels/cpu/step.h"
#include "kernels/math/philox.h"
#include "kernels/math/sampling.h"
#include "kernels/occurrences.h"

namespace evenflow {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

struct Candidate {
  int32_t token;
  float weight;  // e^{(logit - max) / temperature}, or the logit itself where only the order counts
};

bool Likelier(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

bool LowerId(const Candidate& a, const Candidate& b) {
  return a.token < b.token;
}

struct TypicalCandidate : Candidate {
  double distance;  // between the token's surprise and the entropy
};

// Buffers of a thread, kept from call to call.
struct Scratch {
  std::vector<float> logits;
  std::vector<float> weights;
  std::vector<Candidate> candidates;
  std::vector<TypicalCandidate> typical;
  std::vector<SeenToken> seen;
};

double TotalWeight(const std::vector<Candidate>& candidates) {
  double total = 0;
  for (const Candidate& candidate : candidates) {
    total += static_cast<double>(candidate.weight);
  }
  return total;
}

// The `k` largest of the values above kForbidden, ties to the smaller index, in no order. One pass
// that keeps what may still be among them.
void SelectTop(const float* values, int count, size_t k, std::vector<Candidate>* top) {
  top->clear();
  const size_t room = std::max<size_t>(2 * k, 512);
  const auto cut = [&] {
    if (top->size() > k) {
      std::nth_element(top->begin(), top->begin() + static_cast<ptrdiff_t>(k) - 1, top->end(),
                       Likelier);
      top->resize(k);
    }
  };
  float bar = kForbidden;  // values must pass it; indices ascend, so equal ones come too late
  for (int i = 0; i < count; ++i) {
    if (values[i] > bar) {
      top->push_back({i, values[i]});
      if (top->size() == room) {
        cut();
        bar = (*top)[k - 1].weight;
      }
    }
  }
  cut();
}

// Keeps the shortest prefix, in the order of `before`, that weighs at least `mass`, and at least
// one. Linear: only the range that holds the end of the prefix is ordered further.
template <class Item, class Before>
void KeepMass(double mass, const Before& before, std::vector<Item>* candidates) {
  constexpr ptrdiff_t kSmall = 32;
  const auto begin = candidates->begin();
  ptrdiff_t low = 0;
  ptrdiff_t high = candidates->end() - begin;
  double kept = 0;
  while (high - low > kSmall) {
    const ptrdiff_t middle = low + (high - low) / 2;
    std::nth_element(begin + low, begin + middle, begin + high, before);
    double half = 0;
    for (ptrdiff_t i = low; i < middle; ++i) {
      half += static_cast<double>(begin[i].weight);
    }
    if (kept + half >= mass) {
      high = middle;
    } else {
      kept += half;
      low = middle;
    }
  }
  std::sort(begin + low, begin + high, before);
  for (; low < high && kept < mass; ++low) {
    kept += static_cast<double>(begin[low].weight);
  }
  candidates->resize(static_cast<size_t>(std::max<ptrdiff_t>(low, 1)));
}

// Locally typical sampling (arXiv 2202.00666): the tokens whose surprise is nearest to the entropy.
void KeepTypical(float typical_p, std::vector<Candidate>* candidates,
                 std::vector<TypicalCandidate>* scratch) {
  const double total = TotalWeight(*candidates);
  const auto surprise = [total](const Candidate& c) {
    return -std::log(static_cast<double>(c.weight) / total);
  };
  double entropy = 0;
  scratch->clear();
  for (const Candidate& c : *candidates) {
    if (c.weight > 0) {
      scratch->push_back({c, surprise(c)});
      entropy += static_cast<double>(c.weight) / total * scratch->back().distance;
    }
  }
  for (TypicalCandidate& c : *scratch) {
    c.distance = std::abs(c.distance - entropy);
  }
  const auto nearer = [](const TypicalCandidate& a, const TypicalCandidate& b) {
    return a.distance != b.distance ? a.distance < b.distance : a.token < b.token;
  };
  KeepMass(static_cast<double>(typical_p) * total, nearer, scratch);
  candidates->assign(scratch->begin(), scratch->end());
}

void KeepTopP(float top_p, std::vector<Candidate>* candidates) {
  const double total = TotalWeight(*candidates);
  // Tokens below this together weigh less than what may be missing: none is in the prefix.
  const double light =
      (1 - static_cast<double>(top_p)) * total / static_cast<double>(candidates->size() + 1);
  candidates->erase(
      std::remove_if(candidates->begin(), candidates->end(),
                     [&](const Candidate& c) { return static_cast<double>(c.weight) < light; }),
      candidates->end());
  KeepMass(static_cast<double>(top_p) * total, Likelier, candidates);
}

void KeepMinP(float min_p, std::vector<Candidate>* candidates) {
  const float max = std::min_element(candidates->begin(), candidates->end(), Likelier)->weight;
  candidates->erase(std::remove_if(candidates->begin(), candidates->end(),
                                   [&](const Candidate& c) { return c.weight < min_p * max; }),
                    candidates->end());
}

// Bias, the allowed tokens, the banned ones.
void ApplyMasks(const SamplingRow& row, std::vector<float>* logits) {
  const SamplingParams& params = *row.params;
  const auto known = [&](int32_t token) {
    return token >= 0 && static_cast<size_t>(token) < logits->size();
  };
  for (const auto& [token, bias] : params.logit_bias) {
    if (known(token)) {
      (*logits)[static_cast<size_t>(token)] += bias;
    }
  }
  if (!params.allowed_tokens.empty()) {
    size_t next = 0;
    for (const int32_t token : params.allowed_tokens) {
      if (known(token)) {
        const auto allowed = static_cast<size_t>(token);
        std::fill(logits->begin() + static_cast<ptrdiff_t>(next), logits->begin() + token,
                  kForbidden);
        next = allowed + 1;
      }
    }
    std::fill(logits->begin() + static_cast<ptrdiff_t>(next), logits->end(), kForbidden);
  }
  for (int i = 0; i < row.banned_count; ++i) {
    if (known(row.banned[i])) {
      (*logits)[static_cast<size_t>(row.banned[i])] = kForbidden;
    }
  }
}

void ApplyPenalties(const SamplingRow& row, std::vector<float>* logits, Scratch* scratch) {
  const SamplingParams& params = *row.params;
  FindOccurrences(row, static_cast<int>(logits->size()), &scratch->seen);
  for (const SeenToken& seen : scratch->seen) {
    float& logit = (*logits)[static_cast<size_t>(seen.token)];
    logit = Penalize(logit, params.repetition_penalty, params.frequency_penalty,
                     params.presence_penalty, seen.occurrences);
  }
}

// The token at which the running sum passes draw * total, by ascending ids.
int32_t Draw(double draw, std::vector<Candidate>* candidates) {
  if (!std::is_sorted(candidates->begin(), candidates->end(), LowerId)) {
    std::sort(candidates->begin(), candidates->end(), LowerId);
  }
  const double target = draw * TotalWeight(*candidates);
  double sum = 0;
  int32_t last = -1;
  for (const Candidate& candidate : *candidates) {
    sum += static_cast<double>(candidate.weight);
    last = candidate.weight > 0 ? candidate.token : last;
    if (sum > target) {
      break;
    }
  }
  return last;
}

// One draw from `logits`, whose largest is `max`, through the filters.
int32_t DrawToken(const SamplingRow& row, const float* logits, int vocab, float max,
                  Scratch* scratch) {
  const SamplingParams& params = *row.params;
  auto& candidates = scratch->candidates;
  if (params.top_k > 0 && params.top_k < vocab) {
    SelectTop(logits, vocab, static_cast<size_t>(params.top_k), &candidates);
    for (Candidate& candidate : candidates) {
      ExpWeights(&candidate.weight, 1, max, params.temperature, &candidate.weight);
    }
    std::sort(candidates.begin(), candidates.end(), LowerId);
  } else {
    auto& weights = scratch->weights;
    weights.resize(static_cast<size_t>(vocab));
    ExpWeights(logits, vocab, max, params.temperature, weights.data());
    candidates.clear();
    for (int i = 0; i < vocab; ++i) {
      candidates.push_back({i, weights[static_cast<size_t>(i)]});
    }
  }
  if (params.typical_p < 1) {
    KeepTypical(params.typical_p, &candidates, &scratch->typical);
  }
  if (params.top_p < 1) {
    KeepTopP(params.top_p, &candidates);
  }
  if (params.min_p > 0) {
    KeepMinP(params.min_p, &candidates);
  }
  return Draw(UniformAt(params.seed, row.position), &candidates);
}

int32_t ChooseToken(const SamplingRow& row, const float* logits, int vocab, float max,
                    Scratch* scratch) {
  const SamplingParams& params = *row.params;
  const bool penalties = HasPenalties(params);
  if (penalties || !params.logit_bias.empty() || !params.allowed_tokens.empty() ||
      row.banned_count > 0) {
    auto& changed = scratch->logits;
    changed.assign(logits, logits + vocab);
    ApplyMasks(row, &changed);
    if (penalties) {
      ApplyPenalties(row, &changed, scratch);
    }
    logits = changed.data();
    max = MaxLogit(logits, vocab);
  }
  if (!std::isfinite(max)) {
    return -1;
  }
  if (params.temperature == 0) {
    return static_cast<int32_t>(std::find(logits, logits + vocab, max) - logits);
  }
  return DrawToken(row, logits, vocab, max, scratch);
}

void SetLogprobs(const float* logits, int vocab, float max, int top, SampledToken* sampled) {
  const double norm =
      static_cast<double>(max) + std::log(ExpWeights(logits, vocab, max, 1, nullptr));
  const auto logprob = [&](int32_t token) {
    return static_cast<float>(static_cast<double>(logits[token]) - norm);
  };
  sampled->logprob = logprob(sampled->token);
  if (top > 0) {
    std::vector<Candidate> likeliest;
    SelectTop(logits, vocab, static_cast<size_t>(std::min(top, vocab)), &likeliest);
    std::sort(likeliest.begin(), likeliest.end(), Likelier);
    for (const Candidate& candidate : likeliest) {
      sampled->top.push_back({candidate.token, logprob(candidate.token)});
    }
  }
}

SampledToken Sample(const SamplingRow& row, const float* logits, int vocab) {
  static thread_local Scratch scratch;
  SampledToken sampled;
  const float max = MaxLogit(logits, vocab);
  if (std::isfinite(max)) {
    sampled.token = ChooseToken(row, logits, vocab, max, &scratch);
  }
  if (sampled.token >= 0 && row.params->top_logprobs >= 0) {
    SetLogprobs(logits, vocab, max, row.params->top_logprobs, &sampled);
  }
  return sampled;
}

}  // namespace

void CpuSample(const SampleArgs& args, CpuStep& step, WorkerPool& pool) {
  step.output.sampled.resize(step.sampling.size());
  pool.For(static_cast<int>(step.sampling.size()), [&](int i) {
    const auto index = static_cast<size_t>(i);
    const float* logits = static_cast<const float*>(args.logits.data) + i * args.logits.stride;
    step.output.sampled[index] = Sample(step.sampling[index], logits, args.vocab);
  });
}

}  // namespace evenflow
