// VLA's A against its recurrence in double precision, for every mode; and the bounds that make it
// last.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kernels/precondition_session.h"
#include "tests/support/vla_reference.h"

namespace evenflow {
namespace {

using Mode = PreconditionMode;

double Error(const float* got, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference = std::hypot(difference, static_cast<double>(got[i]) - expected[i]);
    norm = std::hypot(norm, expected[i]);
  }
  return difference / std::max(norm, 1e-30);
}

// The largest relative error of all that the stage leaves of a token.
double WorstError(const Preconditioner& of, const Session& session, const Tokens& before,
                  const Tokens& got) {
  const auto dim = static_cast<size_t>(of.key_dim);
  const size_t entries = of.mode == Mode::kRls ? 2 : 1;
  double worst = 0;
  for (int head = 0; head < of.heads; ++head) {
    VlaReference reference(of, session.UWeight(head));
    for (int t = 0; t < got.count; ++t) {
      const size_t index =
          static_cast<size_t>(t) * static_cast<size_t>(of.heads) + static_cast<size_t>(head);
      const auto slice = [&](const std::vector<float>& from) {
        const auto begin = from.begin() + static_cast<ptrdiff_t>(index * dim);
        return std::vector<double>(begin, begin + of.key_dim);
      };
      const auto expected =
          reference.Next(slice(before.k), slice(before.q), static_cast<double>(before.beta[index]));
      EXPECT_EQ(expected.entries.size(), entries);
      worst = std::max(worst, Error(got.q.data() + index * dim, expected.q));
      for (size_t i = 0; i < entries; ++i) {
        const size_t at = (index * entries + i) * dim;
        worst = std::max(worst, Error(got.w.data() + at, expected.entries[i].w));
        if (of.mode != Mode::kStar && of.mode != Mode::kSym) {
          worst = std::max(worst, Error(got.e.data() + at, expected.entries[i].e));
        }
      }
      worst = std::max(worst, Error(&got.beta[index], {expected.entries.back().beta}));
    }
  }
  return worst;
}

// Rounding errors of A are relative to its largest eigenvalue, what is read of it may be as small
// as its smallest; with random keys these are within some ten of one another. A block multiplies
// errors by at most 4, and there are some ten roundings on the way.
constexpr double kTolerance = 400 * std::numeric_limits<float>::epsilon();

TEST(PreconditionTest, AnyModeAndWindowIsTheRecurrence) {
  for (const Mode mode : kPreconditionModes) {
    for (const double mu : {0.99, 1.0, 0.9, 0.75}) {
      for (const Window window : {Window{1, 0}, Window{7, 2}, Window{16, 2}, Window{32, 5}}) {
        SCOPED_TRACE(testing::Message() << Name(mode) << " mu " << mu << " C " << window.commit);
        const Preconditioner of = {mode, 0.5, mu, 2, 16};
        const Tokens before = RandomTokens(of, 120, 1);
        Tokens tokens = before;
        Session session(of, window);
        session.Run(&tokens, 1);
        EXPECT_LE(WorstError(of, session, before, tokens), kTolerance);
      }
    }
  }
}

TEST(PreconditionTest, AnyHeadSizeIsTheRecurrence) {
  for (const Mode mode : kPreconditionModes) {
    for (const int dim : {1, 17, 64, 256}) {
      SCOPED_TRACE(testing::Message() << Name(mode) << " d_k " << dim);
      const Preconditioner of = {mode, 0.1, 0.99, 2, dim};
      const Tokens before = RandomTokens(of, dim > 64 ? 40 : 150, 2);
      Tokens tokens = before;
      Session session(of, {16, 2});
      session.Run(&tokens, 9);
      EXPECT_LE(WorstError(of, session, before, tokens), kTolerance);
    }
  }
}

TEST(PreconditionTest, HealthIsThatOfTheStoredPlane) {
  for (const Mode mode : kPreconditionModes) {
    for (const int chunk : {1, 5, 40}) {
      SCOPED_TRACE(testing::Message() << Name(mode) << " chunk " << chunk);
      const Preconditioner of = {mode, 0.5, 0.99, 3, 70};
      Tokens tokens = RandomTokens(of, 80, 8);
      Session session(of, {16, 2}, 3);
      std::vector<float> before(3 * 70 * 70);  // I / lambda0
      for (size_t i = 0; i < before.size(); ++i) {
        before[i] = i % (70 * 70) % 71 == 0 ? 2 : 0;
      }
      int commits = 0;
      for (int at = 0; at < tokens.count; at += chunk) {
        session.Step(&tokens, at, at + chunk);
        const std::vector<float> plane = session.StoredPlane();
        const StateHealth& health = session.health();
        ASSERT_EQ(health.committed, plane != before) << "token " << at;
        before = plane;
        if (!health.committed) {
          continue;
        }
        ++commits;
        double square = 0;
        float max_abs = 0;
        for (const float a : plane) {
          square += static_cast<double>(a) * static_cast<double>(a);
          max_abs = std::max(max_abs, std::abs(a));
        }
        EXPECT_NEAR(health.norm, std::sqrt(square), 1e-5 * std::sqrt(square));
        EXPECT_EQ(health.max_abs, max_abs);
        EXPECT_EQ(health.non_finite, 0);
      }
      EXPECT_GE(commits, 1);
    }
  }
}

TEST(PreconditionTest, HealthCountsWhatIsNoNumber) {
  for (const Mode mode : kPreconditionModes) {
    const Preconditioner of = {mode, 0.5, 0.99, 2, 16};
    Tokens tokens = RandomTokens(of, 80, 8);
    tokens.k[20 * 2 * 16 + 16 + 3] = std::numeric_limits<float>::quiet_NaN();  // of head 1
    Session session(of, {16, 2});
    int counted = 0;
    for (int at = 0; at < tokens.count; ++at) {
      session.Step(&tokens, at, at + 1);
      counted = std::max(counted, session.health().non_finite);
      EXPECT_TRUE(at >= 20 || counted == 0);
    }
    EXPECT_EQ(counted, 16 * 16) << Name(mode);
  }
}

TEST(PreconditionTest, ChunksAndThreadsChangeNoBit) {
  for (const Mode mode : kPreconditionModes) {
    for (const Window window : {Window{1, 2}, Window{7, 0}, Window{16, 2}}) {
      const Preconditioner of = {mode, 0.5, 0.95, 3, 17};
      Tokens expected = RandomTokens(of, 150, 3);
      const Tokens before = expected;
      Session one(of, window);
      one.Run(&expected, 1);
      for (const int chunk : {2, 5, 64, 150}) {
        Tokens tokens = before;
        Session session(of, window, 3);
        session.Run(&tokens, chunk);
        EXPECT_EQ(tokens.q, expected.q);
        EXPECT_EQ(tokens.beta, expected.beta);
        EXPECT_EQ(tokens.w, expected.w);
        EXPECT_EQ(session.StoredPlane(), one.StoredPlane());
      }
    }
  }
}

TEST(PreconditionTest, RollbackLeavesNoTrace) {
  for (const Mode mode : kPreconditionModes) {
    for (const Window window : {Window{1, 2}, Window{7, 3}, Window{16, 3}}) {
      const Preconditioner of = {mode, 0.5, 0.95, 2, 16};
      Tokens expected = RandomTokens(of, 80, 4);
      Tokens tokens = expected;
      Tokens rejected = RandomTokens(of, 80, 5);
      Session(of, window).Run(&expected, 1);
      Session session(of, window);
      std::mt19937 random(6);
      for (int at = 0; at < 80; ++at) {
        const int drafted = static_cast<int>(random() % unsigned(window.rollback + 1));
        if (drafted > 0) {
          session.Step(&rejected, at, std::min(80, at + drafted));
        }
        session.Step(&tokens, at, at + 1);
      }
      EXPECT_EQ(tokens.q, expected.q);
      EXPECT_EQ(tokens.beta, expected.beta);
      EXPECT_EQ(tokens.w, expected.w);
    }
  }
}

// |I - beta w e^T|, by power iteration on J^T J.
double JacobianNorm(const std::vector<double>& w, const std::vector<double>& e, double beta) {
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      sum += a[i] * b[i];
    }
    return sum;
  };
  // y <- y - beta a (b . y)
  const auto apply = [&](const std::vector<double>& a, const std::vector<double>& b,
                         std::vector<double>* y) {
    const double along = beta * dot(b, *y);
    for (size_t i = 0; i < a.size(); ++i) {
      (*y)[i] -= along * a[i];
    }
  };
  std::vector<double> x(w.size());
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = 1 + static_cast<double>(i % 3);
  }
  double norm = 0;
  for (int i = 0; i < 100; ++i) {
    const double length = std::sqrt(dot(x, x));
    std::for_each(x.begin(), x.end(), [&](double& value) { value /= length; });
    apply(w, e, &x);
    norm = std::sqrt(dot(x, x));
    apply(e, w, &x);
  }
  return norm;
}

// The largest norm of the step's Jacobian over 300 tokens.
double WorstJacobian(Mode mode, bool elu) {
  const Preconditioner of = {mode, 0.5, 0.99, 1, 32};
  Tokens tokens = RandomTokens(of, 300, 7);
  for (float& k : tokens.k) {
    k = elu && k <= 0 ? std::exp(k) : elu ? k + 1 : k;
  }
  Session session(of, {16, 2});
  session.Run(&tokens, 20);
  const std::vector<float>& e = mode == Mode::kStar || mode == Mode::kSym ? tokens.w : tokens.e;
  double worst = 0;
  for (int t = 0; t < tokens.count; ++t) {
    const auto slice = [&](const std::vector<float>& from) {
      return std::vector<double>(from.begin() + t * 32, from.begin() + (t + 1) * 32);
    };
    // The erased direction at full strength, as the paper's proposition has it.
    const double beta =
        mode == Mode::kStar ? static_cast<double>(tokens.beta[static_cast<size_t>(t)]) : 1.0;
    worst = std::max(worst, JacobianNorm(slice(tokens.w), slice(e), beta));
  }
  return worst;
}

// The paper's proposition 2 holds where a memory erases along the direction that it writes, and for
// no other mode.
TEST(PreconditionTest, StepsThatEraseWhatTheyWriteNeverAmplify) {
  for (const bool elu : {false, true}) {
    EXPECT_NEAR(WorstJacobian(Mode::kStar, elu), 1, 1e-6);
    EXPECT_NEAR(WorstJacobian(Mode::kSym, elu), 1, 1e-6);
    EXPECT_GT(WorstJacobian(Mode::kUnit, elu), 1.1);
  }
}

// Whether sign (A - bound I) is positive definite: by Cholesky's factorisation.
bool IsPositive(const std::vector<float>& a, int dim, double sign, double bound) {
  const auto n = static_cast<size_t>(dim);
  std::vector<double> l(n * n);
  for (size_t j = 0; j < n; ++j) {
    for (size_t i = j; i < n; ++i) {
      double sum = sign * (static_cast<double>(a[i * n + j]) - (i == j ? bound : 0));
      for (size_t k = 0; k < j; ++k) {
        sum -= l[i * n + k] * l[j * n + k];
      }
      if (i == j && !(sum > 0)) {
        return false;
      }
      l[i * n + j] = i == j ? std::sqrt(sum) : sum / l[j * n + j];
    }
  }
  return true;
}

enum class Stream { kGauss, kElu, kSameKey, kNoisyKey, kSubspaces };

// Token t's key: degenerate in the ways that break a recursive inverse.
void FillKey(Stream stream, int t, std::mt19937& random, float* key) {
  constexpr int kDim = 16;
  std::normal_distribution<float> normal;
  for (int i = 0; i < kDim; ++i) {
    const float x = normal(random);
    const float base = i % 3 == 0 ? 1.0f : -0.5f;
    switch (stream) {
      case Stream::kGauss:
        key[i] = x;
        break;
      case Stream::kElu:
        key[i] = x > 0 ? x + 1 : std::exp(x);
        break;
      case Stream::kSameKey:
        key[i] = base;
        break;
      case Stream::kNoisyKey:
        key[i] = base + 0.01f * x;
        break;
      case Stream::kSubspaces:  // 4 of 16 dimensions, others every 8000 tokens
        key[i] = i / 4 == t / 8000 % 4 ? x : 0;
        break;
    }
  }
}

// 100,000 tokens: A's eigenvalues stay within what is known before the first of them, and what is
// written stays that of double precision: nothing drifts. With M = A^-1, each direction is renewed
// every d_k tokens by the leak, and |k^| = 1:
//     lambda0 mu^(d-1) <= eig(M) <= 1 / (1 - mu) + lambda0 (1 - mu) d / (1 - mu^d)
TEST(PreconditionTest, AStaysWithinItsBoundsForEver) {
  constexpr int kDim = 16, kTokens = 100000, kChunk = 1000;
  constexpr double kLambda0 = 0.5, kMu = 0.99;
  const double least = kLambda0 * std::pow(kMu, kDim - 1);
  const double most =
      1 / (1 - kMu) + kLambda0 * (1 - kMu) * kDim / (1 - std::pow(kMu, double(kDim)));
  constexpr double kSlack = 1e-3;  // rounding errors of 1e-6 |A|, beside a least one of 1 / most
  for (const Stream stream :
       {Stream::kGauss, Stream::kElu, Stream::kSameKey, Stream::kNoisyKey, Stream::kSubspaces}) {
    SCOPED_TRACE(static_cast<int>(stream));
    const Preconditioner of = {Mode::kStar, kLambda0, kMu, 1, kDim};
    std::mt19937 random(8);
    Tokens tokens = RandomTokens(of, kTokens, 9);
    for (int t = 0; t < kTokens; ++t) {
      FillKey(stream, t, random, tokens.k.data() + ptrdiff_t{t} * kDim);
    }
    const Tokens before = tokens;
    Session session(of, {16, 2});
    for (int t = 0; t < kTokens; t += kChunk) {
      session.Step(&tokens, t, t + kChunk);
      const std::vector<float> a = session.StoredPlane();
      ASSERT_TRUE(IsPositive(a, kDim, 1, (1 - kSlack) / most)) << "token " << t;
      ASSERT_TRUE(IsPositive(a, kDim, -1, (1 + kSlack) / least)) << "token " << t;
      for (size_t i = 0; i < kDim; ++i) {
        for (size_t j = 0; j < i; ++j) {
          ASSERT_EQ(a[i * kDim + j], a[j * kDim + i]);
        }
      }
    }
    // Of what is read along the least eigenvalue of A, beside roundings of the largest.
    EXPECT_LE(WorstError(of, session, before, tokens),
              16 * std::numeric_limits<float>::epsilon() * most / least);
  }
}

}  // namespace
}  // namespace evenflow
