// Memories that are least squares: mode rls of VLA, and linear attention with the right weights.
#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/memory_sessions.h"

namespace evenflow {
namespace {

std::vector<float> Normal(size_t count, std::mt19937* random) {
  std::normal_distribution<float> normal;
  std::vector<float> all(count);
  std::generate(all.begin(), all.end(), [&] { return normal(*random); });
  return all;
}

// Solves m x = b for a symmetric positive definite m [n, n] and b [n, columns], in place of b.
void Solve(std::vector<double> m, int n, int columns, std::vector<double>* b) {
  const auto at = [](int i, int j, int width) { return static_cast<size_t>(i * width + j); };
  for (int p = 0; p < n; ++p) {  // elimination without pivots
    for (int i = 0; i < n; ++i) {
      const double factor = i == p ? 0 : m[at(i, p, n)] / m[at(p, p, n)];
      for (int j = 0; j < n; ++j) {
        m[at(i, j, n)] -= factor * m[at(p, j, n)];
      }
      for (int j = 0; j < columns; ++j) {
        (*b)[at(i, j, columns)] -= factor * (*b)[at(p, j, columns)];
      }
    }
  }
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < columns; ++j) {
      (*b)[at(i, j, columns)] /= m[at(i, i, n)];
    }
  }
}

// Mode rls without forgetting reads q (K^T K + lambda0 I)^-1 K^T V after every token: ridge
// regression of the values on the keys. With forgetting the sums are weighted by mu^age, and the
// leak adds observations (p e_i, 0).
TEST(VlaTest, RlsIsRidgeRegression) {
  constexpr int kTokens = 200;
  for (const double mu : {1.0, 0.99}) {
    MemorySetup setup = {MemoryKind::kVlaLeastSquares,
                         PlainShape(1, 16, 8),
                         {16, 2},
                         DType::kF32,
                         PreconditionMode::kRls};
    setup.mu = mu;
    MemoryInputs inputs = RandomInputs(setup, kTokens, 21);
    inputs.beta.assign(kTokens, 1);
    inputs.log_decay = {0};
    MemorySessions sessions(setup, 1, 1);
    const std::vector<float> outputs = sessions.Run(0, inputs, 0, kTokens, 7);
    std::vector<double> m(16 * 16), kv(16 * 8);
    for (size_t i = 0; i < 16; ++i) {
      m[i * 16 + i] = setup.lambda0;
    }
    for (size_t t = 0; t < kTokens; ++t) {
      std::for_each(m.begin(), m.end(), [&](double& x) { x *= mu; });
      std::for_each(kv.begin(), kv.end(), [&](double& x) { x *= mu; });
      m[t % 16 * 16 + t % 16] += (1 - mu) * setup.lambda0 * 16;
      for (size_t i = 0; i < 16; ++i) {
        const auto k = static_cast<double>(inputs.k[t * 16 + i]);
        for (size_t j = 0; j < 16; ++j) {
          m[i * 16 + j] += k * static_cast<double>(inputs.k[t * 16 + j]);
        }
        for (size_t c = 0; c < 8; ++c) {
          kv[i * 8 + c] += k * static_cast<double>(inputs.v[t * 8 + c]);
        }
      }
      std::vector<double> solution = kv;
      Solve(m, 16, 8, &solution);
      for (size_t c = 0; c < 8; ++c) {
        double expected = 0;
        for (size_t i = 0; i < 16; ++i) {
          expected += static_cast<double>(inputs.q[t * 16 + i]) * solution[i * 8 + c];
        }
        EXPECT_NEAR(outputs[t * 8 + c], expected, 1e-5) << "token " << t;
      }
    }
  }
}

// Ordinary least squares is one layer of linear attention (arXiv 2604.13656): with L L^T = (X^T
// X)^-1, keys X L, values Y and queries x L it reads x (X^T X)^-1 X^T Y.
TEST(LinearAttentionTest, IsLeastSquaresWithTheRightWeights) {
  constexpr int kSamples = 64, kIn = 8, kOut = 3;
  std::mt19937 random(22);
  const std::vector<float> x = Normal((kSamples + 1) * kIn, &random);  // the last is asked for
  const std::vector<float> y = Normal((kSamples + 1) * kOut, &random);
  std::vector<double> sigma(kIn * kIn), solution(kIn * kOut);
  for (size_t t = 0; t < kSamples; ++t) {
    for (size_t i = 0; i < kIn; ++i) {
      const auto xi = static_cast<double>(x[t * kIn + i]);
      for (size_t j = 0; j < kIn; ++j) {
        sigma[i * kIn + j] += xi * static_cast<double>(x[t * kIn + j]);
      }
      for (size_t c = 0; c < kOut; ++c) {
        solution[i * kOut + c] += xi * static_cast<double>(y[t * kOut + c]);
      }
    }
  }
  Solve(sigma, kIn, kOut, &solution);
  // Sigma = C C^T, L = C^-T: a row of X L is C^-1 x.
  std::vector<double> c(kIn * kIn);
  for (size_t i = 0; i < kIn; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double sum = sigma[i * kIn + j];
      for (size_t k = 0; k < j; ++k) {
        sum -= c[i * kIn + k] * c[j * kIn + k];
      }
      c[i * kIn + j] = i == j ? std::sqrt(sum) : sum / c[j * kIn + j];
    }
  }
  MemoryInputs inputs;
  inputs.tokens = kSamples + 1;
  inputs.beta.assign(kSamples + 1, 1);
  inputs.v = y;
  for (size_t t = 0; t <= kSamples; ++t) {
    std::vector<double> key(kIn);
    for (size_t i = 0; i < kIn; ++i) {
      key[i] = static_cast<double>(x[t * kIn + i]);
      for (size_t j = 0; j < i; ++j) {
        key[i] -= c[i * kIn + j] * key[j];
      }
      key[i] /= c[i * kIn + i];
      inputs.q.push_back(static_cast<float>(key[i]));
      inputs.k.push_back(t < kSamples ? inputs.q.back() : 0);  // the last token is not a sample
    }
  }
  MemorySessions sessions({MemoryKind::kLinearAttention, PlainShape(1, kIn, kOut), {}}, 1, 1);
  const std::vector<float> outputs = sessions.Run(0, inputs, 0, kSamples + 1, 10);
  for (size_t o = 0; o < kOut; ++o) {
    double expected = 0;
    for (size_t i = 0; i < kIn; ++i) {
      expected += static_cast<double>(x[kSamples * kIn + i]) * solution[i * kOut + o];
    }
    EXPECT_NEAR(outputs[kSamples * kOut + o], expected, 1e-5);
  }
}

}  // namespace
}  // namespace evenflow
