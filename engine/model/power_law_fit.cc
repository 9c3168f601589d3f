// Nodes: one that hardly decays, which makes alpha = 1 exact, and the others geometric between
// about 1 / horizon and 1 / first lag. Coefficients: non-negative least squares (Lawson and Hanson,
// 1974) with weights that grow where the error is large (Lawson, 1961), which tends to the least
// maximum.
#include "engine/model/power_law_fit.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/operations.h"

namespace evenflow {
namespace {

using Vector = std::vector<double>;

constexpr size_t kMaxNodes = 24;
constexpr double kLeastEpsilon = 1e-4;  // what lies between the table's points reaches this

// The lags at which errors are looked at: some one by one, then ever further apart.
Vector Lags(const PowerLawTarget& target, int dense, int sparse) {
  Vector lags;
  const double first = target.first_lag;
  for (int i = 0; i < dense && first + i <= target.horizon; ++i) {
    lags.push_back(first + i);
  }
  for (int i = 0; i <= sparse; ++i) {
    const double lag = std::round(lags[0] * std::pow(target.horizon / lags[0], double(i) / sparse));
    if (lag > lags.back()) {
      lags.push_back(lag);
    }
  }
  return lags;
}

// w_k(alpha) at each lag k. Where k is large, the logarithms of Gamma would cancel each other:
// there Gamma(k + alpha) / k! = k^(alpha - 1) (1 + alpha (alpha - 1) / (2 k) + O(k^-2)).
Vector Weights(const Vector& lags, double alpha) {
  constexpr double kLarge = 1e5;
  Vector weights;
  for (const double k : lags) {
    const double ratio = k > kLarge
                             ? (alpha - 1) * std::log(k) + std::log1p(alpha * (alpha - 1) / (2 * k))
                             : std::lgamma(k + alpha) - std::lgamma(k + 1);
    weights.push_back(std::exp(ratio - std::lgamma(alpha)));
  }
  return weights;
}

// Minimises x^T G x / 2 - h^T x over x >= 0.
class NonNegativeLeastSquares {
 public:
  explicit NonNegativeLeastSquares(size_t size) : size_(size), gram_(size * size), target_(size) {}

  double& gram(size_t i, size_t j) { return gram_[i * size_ + j]; }

  double& target(size_t i) { return target_[i]; }

  Vector Solve() {
    Vector x(size_, 0.0);
    free_.clear();
    const double tolerance = 1e-13 * *std::max_element(target_.begin(), target_.end());
    for (size_t round = 0; round < 3 * size_ && AddSteepest(x, tolerance); ++round) {
      while (!free_.empty()) {
        const Vector z = SolveFree();
        double step = 1;  // towards z, as far as x stays non-negative
        for (size_t i = 0; i < free_.size(); ++i) {
          const double from = x[free_[i]];
          if (z[i] <= 0) {
            step = std::min(step, from / (from - z[i]));
          }
        }
        std::vector<size_t> kept;
        for (size_t i = 0; i < free_.size(); ++i) {
          double& to = x[free_[i]];
          to += step * (z[i] - to);
          if (z[i] > 0 || to > tolerance) {
            kept.push_back(free_[i]);
          } else {
            to = 0;
          }
        }
        const bool all = kept.size() == free_.size();
        free_ = std::move(kept);
        if (all) {
          break;
        }
      }
    }
    return x;
  }

 private:
  // Frees the variable whose growth helps most; false when none does.
  bool AddSteepest(const Vector& x, double tolerance) {
    double steepest = tolerance;
    size_t best = size_;
    for (size_t i = 0; i < size_; ++i) {
      double slope = target_[i];
      for (size_t j = 0; j < size_; ++j) {
        slope -= gram_[i * size_ + j] * x[j];
      }
      if (slope > steepest && std::find(free_.begin(), free_.end(), i) == free_.end()) {
        steepest = slope;
        best = i;
      }
    }
    if (best < size_) {
      free_.push_back(best);
    }
    return best < size_;
  }

  // The minimum over the free variables, by Cholesky.
  Vector SolveFree() const {
    const size_t n = free_.size();
    Vector l(n * n), z(n);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j <= i; ++j) {
        double sum = gram_[free_[i] * size_ + free_[j]];
        for (size_t k = 0; k < j; ++k) {
          sum -= l[i * n + k] * l[j * n + k];
        }
        // A variable that the others nearly express counts as one that they do not.
        l[i * n + j] = i == j ? std::sqrt(std::max(sum, 1e-14 * gram_[free_[i] * size_ + free_[i]]))
                              : sum / l[j * n + j];
      }
      z[i] = target_[free_[i]];
      for (size_t k = 0; k < i; ++k) {
        z[i] -= l[i * n + k] * z[k];
      }
      z[i] /= l[i * n + i];
    }
    for (size_t i = n; i-- > 0;) {
      for (size_t k = i + 1; k < n; ++k) {
        z[i] -= l[k * n + i] * z[k];
      }
      z[i] /= l[i * n + i];
    }
    return z;
  }

  const size_t size_;
  Vector gram_, target_;
  std::vector<size_t> free_;
};

// Coefficients for one alpha after another on fixed nodes.
class Fitter {
 public:
  Fitter(const Vector& rates, Vector lags) : lags_(std::move(lags)), size_(rates.size()) {
    for (const double lag : lags_) {
      for (const double rate : rates) {
        terms_.push_back(std::exp(-rate * lag));
      }
    }
  }

  // Puts the largest error into *error.
  Vector Fit(double alpha, double* error) const {
    constexpr int kRounds = 12;
    const Vector wanted = Weights(lags_, alpha);
    Vector importance(lags_.size(), 1.0);
    Vector best(size_);
    *error = std::numeric_limits<double>::infinity();
    for (int round = 0; round < kRounds; ++round) {
      const Vector c = FitOnce(wanted, importance);
      const Vector errors = Errors(wanted, c);
      const double largest = *std::max_element(errors.begin(), errors.end());
      if (largest < *error) {
        *error = largest;
        best = c;
      }
      if (largest < 1e-12) {
        break;
      }
      for (size_t k = 0; k < errors.size(); ++k) {
        importance[k] *= errors[k] / largest + 1e-2;
      }
      const double most = *std::max_element(importance.begin(), importance.end());
      for (double& i : importance) {
        i /= most;
      }
    }
    return best;
  }

  double LargestError(double alpha, const Vector& c) const {
    const Vector errors = Errors(Weights(lags_, alpha), c);
    return *std::max_element(errors.begin(), errors.end());
  }

 private:
  Vector FitOnce(const Vector& wanted, const Vector& importance) const {
    NonNegativeLeastSquares problem(size_);
    for (size_t k = 0; k < lags_.size(); ++k) {
      const double* term = &terms_[k * size_];
      for (size_t i = 0; i < size_; ++i) {
        const double weighted = importance[k] * term[i];
        problem.target(i) += weighted * wanted[k];
        for (size_t j = 0; j < size_; ++j) {
          problem.gram(i, j) += weighted * term[j];
        }
      }
    }
    return problem.Solve();
  }

  Vector Errors(const Vector& wanted, const Vector& c) const {
    Vector errors;
    for (size_t k = 0; k < lags_.size(); ++k) {
      double sum = -wanted[k];
      for (size_t i = 0; i < size_; ++i) {
        sum += terms_[k * size_ + i] * c[i];
      }
      errors.push_back(std::abs(sum));
    }
    return errors;
  }

  const Vector lags_;
  const size_t size_;
  Vector terms_;  // [lag, node]
};

// s_0 turns the horizon's weight by a quarter of epsilon at most, and forgets in the end.
Vector Nodes(const PowerLawTarget& target, size_t count, double low, double high) {
  Vector rates = {target.epsilon / (2 * target.horizon)};
  const double slowest = low / target.horizon;
  const double fastest = std::max(high / target.first_lag, 2 * slowest);
  for (size_t i = 0; i + 1 < count; ++i) {
    const double part = count == 2 ? 0.5 : static_cast<double>(i) / static_cast<double>(count - 2);
    rates.push_back(slowest * std::pow(fastest / slowest, part));
  }
  return rates;
}

// The best nodes of that number, by some alphas.
Vector ChooseNodes(const PowerLawTarget& target, size_t count, double* error) {
  constexpr double kParts[] = {0, 0.1, 0.25, 0.4, 0.55, 0.7, 0.82, 0.92, 0.98};
  const Vector lags = Lags(target, 20, 80);
  Vector best;
  *error = std::numeric_limits<double>::infinity();
  for (const double low : {4.0, 2.0, 1.0, 0.5}) {
    for (const double high : {1.0, 2.0, 4.0}) {
      Vector rates = Nodes(target, count, low, high);
      const Fitter fitter(rates, lags);
      double largest = 0;
      for (const double part : kParts) {
        double of_alpha = 0;
        fitter.Fit(target.alpha_min + (1 - target.alpha_min) * part, &of_alpha);
        largest = std::max(largest, of_alpha);
        if (largest >= *error) {
          break;
        }
      }
      if (largest < *error) {
        *error = largest;
        best = std::move(rates);
      }
    }
  }
  return best;
}

// The table for these nodes, and its error with what lies between its points.
PowerLawFit Tabulate(const PowerLawTarget& target, const Vector& rates) {
  const auto alpha_at = [&](double point) {
    return target.alpha_min + (1 - target.alpha_min) * point / (PowerLaw::kPoints - 1);
  };
  PowerLawFit fit;
  fit.rates.assign(rates.begin(), rates.end());
  const Fitter fitter(rates, Lags(target, 20, 80));
  const Fitter finer(rates, Lags(target, 40, 300));
  Vector before;
  for (int point = 0; point < PowerLaw::kPoints; ++point) {
    double error = 0;
    const Vector c = fitter.Fit(alpha_at(point), &error);
    fit.coefficients.insert(fit.coefficients.end(), c.begin(), c.end());
    fit.error = std::max(fit.error, finer.LargestError(alpha_at(point), c));
    if (point > 0) {
      Vector between(c.size());
      for (size_t i = 0; i < c.size(); ++i) {
        between[i] = (before[i] + c[i]) / 2;
      }
      fit.error = std::max(fit.error, finer.LargestError(alpha_at(point - 0.5), between));
    }
    before = c;
  }
  return fit;
}

}  // namespace

PowerLawFit FitPowerLaw(const PowerLawTarget& wished) {
  PowerLawTarget target = wished;
  target.epsilon = std::max(target.epsilon, kLeastEpsilon);
  target.horizon = std::max(target.horizon, 2.0 * target.first_lag);
  PowerLawFit best;
  best.error = std::numeric_limits<double>::infinity();
  for (size_t count = 2; count <= kMaxNodes && best.error > target.epsilon; ++count) {
    double error = 0;
    const Vector rates = ChooseNodes(target, count, &error);
    if (error <= target.epsilon || count == kMaxNodes) {
      PowerLawFit fit = Tabulate(target, rates);
      if (fit.error < best.error) {
        best = std::move(fit);
      }
    }
  }
  return best;
}

}  // namespace evenflow
