#include "kernels/cpu/matmul.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "tests/kernels/cpu_test_support.h"

namespace evenflow {
namespace {

using test::RandomFloats;

struct Problem {
  int64_t outputs, inputs;
  DType dtype;
  std::vector<float> values;     // what the weights are, as floats
  std::vector<uint16_t> packed;  // the same as bf16

  Problem(int64_t outputs_, int64_t inputs_, DType dtype_)
      : outputs(outputs_),
        inputs(inputs_),
        dtype(dtype_),
        values(RandomFloats(static_cast<size_t>(outputs * inputs), 1)) {
    for (float& value : values) {
      packed.push_back(test::ToBf16(value));
      if (dtype == DType::kBF16) {
        value = test::FromBf16(packed.back());
      }
    }
  }

  Weight weight() const {
    const void* data = values.data();
    if (dtype == DType::kBF16) {
      data = packed.data();
    }
    return {data, dtype, outputs, inputs};
  }
};

std::vector<float> Multiply(const Problem& problem, const float* x, int rows, WorkerPool& pool) {
  std::vector<float> y(static_cast<size_t>(rows * problem.outputs), NAN);
  MatMulArgs args;
  args.x = {const_cast<float*>(x), DType::kF32, problem.inputs};
  args.w = problem.weight();
  args.y = test::MatrixOf(y, problem.outputs);
  CpuMatMul(args, test::StepOf(rows), pool);
  return y;
}

bool SameBits(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0;
}

const std::vector<Problem>& Problems() {
  static const auto* const problems = new std::vector<Problem>{
      {1, 1, DType::kF32},     {1, 1, DType::kBF16},    {3, 7, DType::kF32},
      {5, 16, DType::kBF16},   {13, 31, DType::kF32},   {29, 100, DType::kBF16},
      {37, 255, DType::kBF16}, {25, 257, DType::kF32},  {12, 512, DType::kBF16},
      {64, 700, DType::kBF16}, {50, 1037, DType::kF32}, {300, 640, DType::kBF16},
      {9, 2100, DType::kBF16},
  };
  return *problems;
}

// Runs a check on every instruction set that was compiled in and that this machine has.
template <class Check>
void OnEveryTarget(const Check& check) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    check();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

TEST(MatMulTest, EqualsTheSumInDouble) {
  constexpr int kRows = 11;
  OnEveryTarget([] {
    WorkerPool pool(2);
    for (const Problem& problem : Problems()) {
      for (const int rows : {1, 2, 3, 4, kRows}) {
        const auto inputs = static_cast<size_t>(problem.inputs);
        const std::vector<float> x = RandomFloats(static_cast<size_t>(rows) * inputs, 2);
        std::vector<double> expected;
        std::vector<double> tolerance;
        for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
          for (size_t output = 0; output < static_cast<size_t>(problem.outputs); ++output) {
            double sum = 0;
            double magnitude = 0;
            for (size_t k = 0; k < inputs; ++k) {
              const double product =
                  static_cast<double>(x[row * inputs + k]) * problem.values[output * inputs + k];
              sum += product;
              magnitude += std::fabs(product);
            }
            expected.push_back(sum);
            // A term goes through at most K + 1 roundings, each of at most half a unit.
            tolerance.push_back(0.5 * test::kEps * static_cast<double>(inputs + 1) * magnitude);
          }
        }
        SCOPED_TRACE(testing::Message() << rows << " rows, " << problem.outputs << " x " << inputs
                                        << ' ' << Name(problem.dtype));
        test::ExpectClose(Multiply(problem, x.data(), rows, pool), expected, tolerance);
      }
    }
  });
}

TEST(MatMulTest, ARowsBitsDoNotDependOnTheRowsBesideIt) {
  constexpr int kMost = 131;  // more than two blocks of rows
  OnEveryTarget([] {
    WorkerPool pool(1);
    for (const Problem& problem : Problems()) {
      const std::vector<float> x = RandomFloats(static_cast<size_t>(kMost * problem.inputs), 3);
      std::vector<float> alone;
      for (int row = 0; row < kMost; ++row) {
        const auto y = Multiply(problem, x.data() + row * problem.inputs, 1, pool);
        alone.insert(alone.end(), y.begin(), y.end());
      }
      const bool small = problem.outputs * problem.inputs < 4000;
      for (int rows = 1; rows <= kMost; rows += (small && rows < 66) || rows < 9 ? 1 : 19) {
        const auto y = Multiply(problem, x.data(), rows, pool);
        ASSERT_TRUE(SameBits(y.data(), alone.data(), rows * problem.outputs))
            << rows << " rows, " << problem.outputs << " x " << problem.inputs;
      }
    }
  });
}

TEST(MatMulTest, BitsDoNotDependOnTheThreads) {
  // Large enough for many shares.
  const Problem problem(1000, 520, DType::kBF16);
  for (const int rows : {1, 3, 4, 5, 40}) {
    const std::vector<float> x = RandomFloats(static_cast<size_t>(rows * problem.inputs), 4);
    WorkerPool one(1);
    const auto expected = Multiply(problem, x.data(), rows, one);
    for (const int threads : {2, 3, 5}) {
      WorkerPool pool(threads);
      const auto y = Multiply(problem, x.data(), rows, pool);
      EXPECT_TRUE(SameBits(y.data(), expected.data(), rows * problem.outputs))
          << threads << " threads, " << rows << " rows";
    }
  }
}

TEST(MatMulTest, AddsBiasAndToTheOutputAndReadsColumns) {
  const Problem problem(30, 70, DType::kBF16);
  WorkerPool pool(2);
  for (const int rows : {1, 4, 9}) {
    constexpr int64_t kColumn = 3;
    const int64_t x_stride = problem.inputs + 10;
    const int64_t y_stride = problem.outputs + 5;
    std::vector<float> x = RandomFloats(static_cast<size_t>(rows * x_stride), 5);
    std::vector<float> y = RandomFloats(static_cast<size_t>(rows * y_stride), 6);
    const std::vector<float> bias = RandomFloats(static_cast<size_t>(problem.outputs), 7);
    std::vector<float> dense;
    for (int row = 0; row < rows; ++row) {
      const auto begin = x.begin() + row * x_stride + kColumn;
      dense.insert(dense.end(), begin, begin + problem.inputs);
    }
    const auto product = Multiply(problem, dense.data(), rows, pool);
    std::vector<float> expected = y;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < problem.outputs; ++i) {
        expected[static_cast<size_t>(row * y_stride + 1 + i)] +=
            product[static_cast<size_t>(row * problem.outputs + i)] + bias[static_cast<size_t>(i)];
      }
    }
    MatMulArgs args;
    args.x = test::MatrixOf(x, x_stride, kColumn);
    args.w = problem.weight();
    args.bias = bias.data();
    args.y = test::MatrixOf(y, y_stride, 1);
    args.add = true;
    CpuMatMul(args, test::StepOf(rows), pool);
    EXPECT_EQ(y, expected);  // what lies between the rows is left alone
  }
}

TEST(MatMulTest, CoversTheLogitsAlone) {
  const Problem problem(20, 40, DType::kF32);
  WorkerPool pool(1);
  std::vector<float> x = RandomFloats(6 * 40, 8);
  std::vector<float> y(6 * 20, 7.0f);
  CpuStep step = test::StepOf(6);
  step.logit_tokens = {1, 5};
  MatMulArgs args;
  args.x = test::MatrixOf(x, 40);
  args.w = problem.weight();
  args.y = test::MatrixOf(y, 20);
  args.tokens = TokenSet::kLogits;
  CpuMatMul(args, step, pool);
  std::vector<float> expected = Multiply(problem, x.data(), 2, pool);
  expected.resize(y.size(), 7.0f);
  EXPECT_EQ(y, expected);
}

TEST(MatMulTest, NonFiniteInputsReachTheirRowAndNoOther) {
  const Problem problem(14, 33, DType::kBF16);
  WorkerPool pool(1);
  for (const int rows : {1, 3, 8}) {
    std::vector<float> x = RandomFloats(static_cast<size_t>(rows * problem.inputs), 9);
    const auto clean = Multiply(problem, x.data(), rows, pool);
    x[static_cast<size_t>(rows * problem.inputs - 1)] = INFINITY;
    const auto y = Multiply(problem, x.data(), rows, pool);
    const int64_t before = (rows - 1) * problem.outputs;
    EXPECT_TRUE(SameBits(y.data(), clean.data(), before));
    for (int64_t i = before; i < rows * problem.outputs; ++i) {
      EXPECT_FALSE(std::isfinite(y[static_cast<size_t>(i)])) << i;
    }
  }
}

}  // namespace
}  // namespace evenflow
