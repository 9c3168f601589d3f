// The nodes that stand for VORT's power laws, against the Gamma function; and why they must follow
// the horizon.
#include "engine/model/power_law_fit.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/math/power_law.h"

#include "gtest/gtest.h"

namespace evenflow {
namespace {

// w_k(alpha) for all k up to the last, by w_k = w_{k-1} (k - 1 + alpha) / k.
std::vector<double> Weights(double alpha, int last) {
  std::vector<double> weights = {1};
  for (int k = 1; k <= last; ++k) {
    weights.push_back(weights.back() * (k - 1 + alpha) / k);
  }
  return weights;
}

double Sum(const PowerLawFit& fit, const std::vector<double>& coefficients, int k) {
  double sum = 0;
  for (size_t j = 0; j < fit.rates.size(); ++j) {
    sum += coefficients[j] * std::exp(-static_cast<double>(fit.rates[j]) * k);
  }
  return sum;
}

// Every lag up to 10,000, then every hundredth of the lag, for exponents on and between the points.
TEST(PowerLawFitTest, KeepsItsErrorForAllExponentsAndLags) {
  struct {
    PowerLawTarget target;
    size_t nodes;  // at most
  } const cases[] = {{{0.05, 1e6, 1e-3, 17}, 8},
                     {{0.05, 1e6, 1e-3, 33}, 8},
                     {{0.05, 1e6, 1e-2, 33}, 5},
                     {{0.05, 1e4, 1e-4, 33}, 8},
                     {{0.3, 1000, 1e-3, 17}, 5}};

  for (const auto& [target, nodes] : cases) {
    SCOPED_TRACE(testing::Message() << "horizon " << target.horizon << " epsilon " << target.epsilon
                                    << " from lag " << target.first_lag);
    const PowerLawFit fit = FitPowerLaw(target);
    EXPECT_LE(fit.rates.size(), nodes);
    EXPECT_LE(fit.error, target.epsilon);
    ASSERT_EQ(fit.coefficients.size(), fit.rates.size() * PowerLaw::kPoints);
    EXPECT_GE(*std::min_element(fit.coefficients.begin(), fit.coefficients.end()), 0);
    EXPECT_GT(fit.rates.front(), 0) << "every state forgets in the end";
    const PowerLaw law{static_cast<int>(fit.rates.size()), static_cast<float>(target.alpha_min),
                       fit.rates.data(), fit.coefficients.data()};
    const auto last = static_cast<int>(target.horizon);
    std::mt19937 random(3);
    std::vector<double> alphas = {target.alpha_min, 0.5, 0.999, 1};
    for (int i = 0; i < 10; ++i) {
      alphas.push_back(std::uniform_real_distribution<double>(target.alpha_min, 1)(random));
    }
    double worst = 0;
    for (const double alpha : alphas) {
      const std::vector<double> weights = Weights(alpha, last);
      std::vector<double> coefficients;
      for (int j = 0; j < law.nodes; ++j) {
        coefficients.push_back(static_cast<double>(law.Coefficient(j, static_cast<float>(alpha))));
      }
      for (int k = target.first_lag; k <= last; k += k < 10000 ? 1 : k / 100) {
        worst =
            std::max(worst, std::abs(weights[static_cast<size_t>(k)] - Sum(fit, coefficients, k)));
      }
    }
    // The fit looked at some lags, and kept rates and coefficients in fp32.
    EXPECT_LE(worst, 1.02 * fit.error + 1e-6);
  }
}

TEST(PowerLawFitTest, IsTheSameEveryTime) {
  const PowerLawTarget target{0.05, 1000, 1e-2, 17};
  const PowerLawFit one = FitPowerLaw(target);
  const PowerLawFit two = FitPowerLaw(target);
  EXPECT_EQ(one.rates, two.rates);
  EXPECT_EQ(one.coefficients, two.coefficients);
}

// An epsilon that the table cannot reach is not promised, nor searched for without end.
TEST(PowerLawFitTest, SaysWhatItReachesForAnImpossibleWish) {
  const PowerLawFit fit = FitPowerLaw({0.05, 1000, 1e-9, 17});
  EXPECT_GT(fit.error, 1e-9);
  EXPECT_LE(fit.error, 1e-4);
}

// A horizon within the exact entries needs nothing more, and gets something that works.
TEST(PowerLawFitTest, TakesAHorizonBelowTheFirstLag) {
  const PowerLawFit fit = FitPowerLaw({0.05, 10, 1e-3, 33});
  EXPECT_LE(fit.error, 1e-3);
}

// The L2 norm over the lags up to T of w minus its best mixture of rates >= `least`, with
// coefficients of any sign: by orthogonal projection on 24 of them.
double DistanceToFixedRates(double alpha, double least, int horizon) {
  std::vector<std::vector<double>> basis;
  std::vector<double> rest = Weights(alpha, horizon);
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t k = 1; k < a.size(); ++k) {
      sum += a[k] * b[k];
    }
    return sum;
  };
  const auto subtract = [&](const std::vector<double>& direction, std::vector<double>* from) {
    const double part = dot(direction, *from);
    for (size_t k = 0; k < from->size(); ++k) {
      (*from)[k] -= part * direction[k];
    }
  };
  for (int i = 0; i < 24; ++i) {
    const double rate = least * std::pow(1000.0, i / 23.0);
    std::vector<double> column;
    for (int k = 0; k <= horizon; ++k) {
      column.push_back(std::exp(-rate * k));
    }
    const double length = std::sqrt(dot(column, column));
    for (int twice = 0; twice < 2; ++twice) {
      for (const std::vector<double>& direction : basis) {
        subtract(direction, &column);
      }
    }
    const double left = std::sqrt(dot(column, column));
    if (left > 1e-9 * length) {
      for (double& x : column) {
        x /= left;
      }
      subtract(column, &rest);
      basis.push_back(std::move(column));
    }
  }
  return std::sqrt(dot(rest, rest));
}

// The paper's third claim: whatever mixture of rates that stay away from 0, its L2 error grows with
// the horizon as the norm of the power law itself does, where alpha > 1/2.
TEST(PowerLawTest, MixturesOfFixedRatesDiverge) {
  for (const double alpha : {0.75, 0.9}) {
    double before = 0;
    for (const int horizon : {1000, 10000, 100000}) {
      const std::vector<double> weights = Weights(alpha, horizon);
      double square = 0;
      for (int k = 1; k <= horizon; ++k) {
        square += weights[static_cast<size_t>(k)] * weights[static_cast<size_t>(k)];
      }
      const double distance = DistanceToFixedRates(alpha, 1e-2, horizon);
      EXPECT_GT(distance, 1.7 * before) << "alpha " << alpha << ", horizon " << horizon;
      if (horizon >= 10000) {
        EXPECT_GT(distance, 0.75 * std::sqrt(square));
      }
      before = distance;
    }
  }
}

}  // namespace
}  // namespace evenflow
