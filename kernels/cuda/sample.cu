// A block a row; the passes over its logits find them in the second cache. What
// kernels/cpu/sample.cc does with sorted lists is done here with cuts: a token is kept by a filter
// if it lies before the end of the filter's prefix. Weights are summed in steps of 2^-44 of the
// largest.
#include <cmath>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/select.cuh"
#include "kernels/math/sampling.h"

namespace evenflow {
namespace {

constexpr double kOne = 0x1p44;  // the mass of a weight of 1: sums of 2^19 tokens fit
constexpr float kForbidden = -INFINITY;

__device__ inline uint64_t MassOf(float weight) {
  return static_cast<uint64_t>(__double2ull_rn(static_cast<double>(weight) * kOne));
}

// Keys that ascend as values descend.
__device__ inline uint64_t Descending(float value) {
  const uint32_t bits = __float_as_uint(value);
  return bits >> 31 != 0 ? bits : 0x7fffffffu - bits;
}

__device__ inline uint64_t Ascending(double value) {  // value >= 0
  return static_cast<uint64_t>(__double_as_longlong(value));
}

template <class Combine>
__device__ float BlockReduce(float value, const Combine& combine, float* partial) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    partial[threadIdx.x / 32] = value;
  }
  __syncthreads();
  value = partial[0];
  for (int warp = 1; warp < kSampleWarps; ++warp) {
    value = combine(value, partial[warp]);
  }
  return value;
}

__device__ double BlockSumDouble(double value, double* partial) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    partial[threadIdx.x / 32] = value;
  }
  __syncthreads();
  value = 0;
  for (int warp = 0; warp < kSampleWarps; ++warp) {
    value += partial[warp];
  }
  return value;
}

struct Shared {
  SelectShared select;
  float floats[kSampleWarps];
  double doubles[kSampleWarps];
  int count;
  TokenLogprob top[kMaxTopLogprobs];
};

// NaN where a logit is NaN or +Inf.
__device__ float MaxOf(const float* logits, int vocab, Shared* shared) {
  float max = kForbidden;
  bool bad = false;
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < vocab; i += kSampleThreads) {
    bad = bad || !(logits[i] < INFINITY);
    max = fmaxf(max, logits[i]);
  }
  max = bad ? NAN : max;
  const auto larger = [](float a, float b) { return isnan(a) || isnan(b) ? NAN : fmaxf(a, b); };
  return BlockReduce(max, larger, shared->floats);
}

// Applies apply(token, edit, i) to the tokens of `count` edits that the vocabulary has, at once.
template <class Apply>
__device__ void ForEdits(const LogitEdit* edits, int count, int vocab, const Apply& apply) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kSampleThreads) {
    if (edits[i].token >= 0 && edits[i].token < vocab) {
      apply(edits[i], i);
    }
  }
  __syncthreads();
}

// Penalties, of the tokens seen and of the newest one, which is -1 or among them or not.
__device__ void ApplyPenalties(const CudaSamplingRow& row, const LogitEdit* edits, int newest,
                               int vocab, float* changed) {
  const auto penalize = [&](int token, Occurrences seen) {
    changed[token] = Penalize(changed[token], row.repetition, row.frequency, row.presence, seen);
  };
  bool among = false;
  ForEdits(edits, row.seen, vocab, [&](const LogitEdit& edit, int) {
    Occurrences seen = edit.occurrences;
    if (edit.token == newest) {
      seen = {seen.count + 1, 1};
      among = true;
    }
    penalize(edit.token, seen);
  });
  if (newest >= 0 && __syncthreads_or(among) == 0 && threadIdx.x == 0) {
    penalize(newest, {1, 1});
  }
  __syncthreads();
}

// Bias, the allowed tokens, the banned ones, penalties: of logits into changed, [vocab]. `kept` is
// room for the logits of the allowed tokens.
__device__ void ApplyEdits(const CudaSamplingRow& row, const LogitEdit* edits, int newest,
                           const float* logits, int vocab, float* changed, float* kept) {
  const auto thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < vocab; i += kSampleThreads) {
    changed[i] = logits[i];
  }
  __syncthreads();
  ForEdits(edits, row.biases, vocab,
           [&](const LogitEdit& edit, int) { changed[edit.token] += edit.bias; });
  edits += row.biases;
  if (row.allowed > 0) {
    ForEdits(edits, row.allowed, vocab,
             [&](const LogitEdit& edit, int i) { kept[i] = changed[edit.token]; });
    for (int i = thread; i < vocab; i += kSampleThreads) {
      changed[i] = kForbidden;
    }
    __syncthreads();
    ForEdits(edits, row.allowed, vocab,
             [&](const LogitEdit& edit, int i) { changed[edit.token] = kept[i]; });
  }
  edits += row.allowed;
  ForEdits(edits, row.banned, vocab,
           [&](const LogitEdit& edit, int) { changed[edit.token] = kForbidden; });
  edits += row.banned;
  ApplyPenalties(row, edits, newest, vocab, changed);
}

// One row's draw: its logits and the filters' cuts so far.
struct Draw {
  const CudaSamplingRow& row;
  const float* logits;
  int vocab;
  float max;
  Shared* shared;
  Cut top_k = {}, typical = {}, top_p = {};
  bool has_top_k = false, has_typical = false, has_top_p = false;
  double total = 0, entropy = 0;  // of those that top-k keeps
  float least = 0;                // of min-p, a weight

  __device__ float Weight(int i) const { return DrawWeight(logits[i], max, row.temperature); }

  __device__ double Distance(float weight) const {
    return fabs(-log(static_cast<double>(weight) / total) - entropy);
  }

  // The mass of token i if all filters so far keep it, else 0.
  __device__ uint64_t Mass(int i) const {
    if (has_top_k && !(logits[i] > kForbidden && top_k.Keeps(Descending(logits[i]), i))) {
      return 0;
    }
    const float weight = Weight(i);
    if (has_typical && !(weight > 0 && typical.Keeps(Ascending(Distance(weight)), i))) {
      return 0;
    }
    if ((has_top_p && !top_p.Keeps(Descending(weight), i)) || weight < least) {
      return 0;
    }
    return MassOf(weight);
  }

  __device__ uint64_t Total() const {
    uint64_t sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < vocab; i += kSampleThreads) {
      sum += Mass(i);
    }
    return BlockTotal(sum, &shared->select);
  }

  __device__ static uint64_t Share(float part, uint64_t whole) {
    const double target = ceil(static_cast<double>(part) * static_cast<double>(whole));
    return max64(1, static_cast<uint64_t>(target));
  }

  __device__ static uint64_t max64(uint64_t a, uint64_t b) { return a > b ? a : b; }

  __device__ void KeepTopK() {
    const auto key = [this](int i) { return Descending(logits[i]); };
    const auto one = [this](int i) { return uint64_t{logits[i] > kForbidden}; };
    top_k = FindCut(vocab, 32, static_cast<uint64_t>(row.top_k), key, one, &shared->select);
    has_top_k = true;
  }

  // Locally typical sampling (arXiv 2202.00666).
  __device__ void KeepTypical() {
    const uint64_t mass = Total();
    total = static_cast<double>(mass) / kOne;
    double surprise = 0;
    for (int i = static_cast<int>(threadIdx.x); i < vocab; i += kSampleThreads) {
      if (Mass(i) > 0) {
        const double p = static_cast<double>(Weight(i)) / total;
        surprise -= p * log(p);
      }
    }
    entropy = BlockSumDouble(surprise, shared->doubles);
    const auto key = [this](int i) { return Ascending(Distance(Weight(i))); };
    const auto own = [this](int i) { return Mass(i); };
    const Cut cut = FindCut(vocab, 64, Share(row.typical_p, mass), key, own, &shared->select);
    typical = cut;
    has_typical = true;
  }

  __device__ void KeepTopP() {
    const auto key = [this](int i) { return Descending(Weight(i)); };
    const auto own = [this](int i) { return Mass(i); };
    const uint64_t target = Share(row.top_p, Total());
    const Cut cut = FindCut(vocab, 32, target, key, own, &shared->select);
    top_p = cut;
    has_top_p = true;
  }

  __device__ void KeepMinP() {
    float most = 0;
    for (int i = static_cast<int>(threadIdx.x); i < vocab; i += kSampleThreads) {
      most = fmaxf(most, Mass(i) > 0 ? Weight(i) : 0.0f);
    }
    const auto larger = [](float a, float b) { return fmaxf(a, b); };
    least = row.min_p * BlockReduce(most, larger, shared->floats);
  }

  // The token at which the running sum passes draw * total, by ascending ids.
  __device__ int Choose() const {
    const uint64_t whole = Total();
    const double target = row.draw * static_cast<double>(whole);
    const uint64_t passed = min(static_cast<uint64_t>(target) + 1, whole);
    return FindRunning(
        vocab, passed, [this](int i) { return Mass(i); }, &shared->select);
  }
};

__device__ int DrawToken(const CudaSamplingRow& row, const float* logits, int vocab, float max,
                         Shared* shared) {
  Draw draw = {row, logits, vocab, max, shared};
  if (row.top_k > 0 && row.top_k < vocab) {
    draw.KeepTopK();
  }
  if (row.typical_p < 1) {
    draw.KeepTypical();
  }
  if (row.top_p < 1) {
    draw.KeepTopP();
  }
  if (row.min_p > 0) {
    draw.KeepMinP();
  }
  return draw.Choose();
}

__device__ int MostLikely(const float* logits, int vocab, float max, Shared* shared) {
  const auto is_max = [&](int i) { return uint64_t{logits[i] == max}; };
  return FindRunning(vocab, 1, is_max, &shared->select);
}

// The `wanted` most likely tokens, in order, with their log probabilities.
__device__ void SetTop(const float* logits, int vocab, int wanted, double norm, Shared* shared,
                       TokenLogprob* top) {
  const auto key = [&](int i) { return Descending(logits[i]); };
  const auto one = [&](int i) { return uint64_t{logits[i] > kForbidden}; };
  const Cut cut = FindCut(vocab, 32, static_cast<uint64_t>(wanted), key, one, &shared->select);
  if (threadIdx.x == 0) {
    shared->count = 0;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < vocab; i += kSampleThreads) {
    if (one(i) > 0 && cut.Keeps(key(i), i)) {
      shared->top[atomicAdd(&shared->count, 1)] = {i, logits[i]};
    }
  }
  __syncthreads();
  const int count = shared->count;
  const auto thread = static_cast<int>(threadIdx.x);
  if (thread < count) {
    const TokenLogprob own = shared->top[thread];
    int rank = 0;
    for (int i = 0; i < count; ++i) {
      const TokenLogprob other = shared->top[i];
      rank +=
          other.logprob > own.logprob || (other.logprob == own.logprob && other.token < own.token);
    }
    top[rank] = {own.token, static_cast<float>(static_cast<double>(own.logprob) - norm)};
  }
  if (thread >= count && thread < wanted) {
    top[thread] = {-1, 0};
  }
}

struct Job {
  Matrix logits;
  int vocab;
  CudaSampling sampling;
  const int32_t* tokens;
  const int32_t* logit_tokens;
  float* changed;  // [logit, 2, vocab]
};

__global__ void __launch_bounds__(kSampleThreads) SampleKernel(Job job) {
  __shared__ Shared shared;
  AwaitInputs();
  const int64_t index = blockIdx.x;
  const CudaSamplingRow row = job.sampling.rows[index];
  const float* const raw = static_cast<const float*>(job.logits.data) + index * job.logits.stride;
  const float* logits = raw;
  CudaSampled sampled;
  const float raw_max = row.wanted ? MaxOf(raw, job.vocab, &shared) : NAN;
  float max = raw_max;
  if (isfinite(max) && (row.edits() > 0 || row.newest_seen)) {
    float* const changed = job.changed + index * 2 * job.vocab;
    const int newest = row.newest_seen ? job.tokens[job.logit_tokens[index]] : -1;
    ApplyEdits(row, job.sampling.edits + row.first_edit, newest, raw, job.vocab, changed,
               changed + job.vocab);
    logits = changed;
    max = MaxOf(changed, job.vocab, &shared);
  }
  if (isfinite(max)) {
    sampled.token = row.temperature == 0 ? MostLikely(logits, job.vocab, max, &shared)
                                         : DrawToken(row, logits, job.vocab, max, &shared);
  }
  if (sampled.token >= 0 && row.top_logprobs >= 0) {
    double sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < job.vocab; i += kSampleThreads) {
      sum += static_cast<double>(DrawWeight(raw[i], raw_max, 1));
    }
    const double norm = static_cast<double>(raw_max) + log(BlockSumDouble(sum, shared.doubles));
    sampled.logprob = static_cast<float>(static_cast<double>(raw[sampled.token]) - norm);
    if (row.top_logprobs > 0) {
      SetTop(raw, job.vocab, min(row.top_logprobs, job.vocab), norm, &shared,
             job.sampling.top + index * kMaxTopLogprobs);
    }
  }
  if (threadIdx.x == 0) {
    job.sampling.sampled[index] = sampled;
  }
}

}  // namespace

void CudaSample(const SampleArgs& args, const CudaSampling& sampling, const CudaStep& step) {
  if (step.logit_count == 0) {
    return;
  }
  auto* const changed = static_cast<float*>(step.scratch->Take(
      2 * sizeof(float) * static_cast<size_t>(args.vocab) * static_cast<size_t>(step.logit_count)));
  if (changed == nullptr) {
    return;  // the allocation's error is found by the backend
  }
  Launch(SampleKernel, {dim3(static_cast<unsigned>(step.logit_count)), kSampleThreads}, step.stream,
         Job{args.logits, args.vocab, sampling, step.tokens, step.logit_tokens, changed});
}

}  // namespace evenflow
