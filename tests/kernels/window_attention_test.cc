// Window attention against the softmax over the whole sequence, in double. On the CPU or, with
// EVENFLOW_TEST_CUDA, on the CUDA device.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/backend.h"

#include "tests/kernels/cpu_test_support.h"

namespace evenflow {
namespace {

using test::RandomFloats;

constexpr size_t kRingOffset = 64;

struct Shape {
  int heads, key_heads, head_dim, window;

  int columns() const { return (heads + 2 * key_heads) * head_dim; }

  int outputs() const { return heads * head_dim; }
};

std::unique_ptr<Backend> MakeBackend(int threads) {
#ifdef EVENFLOW_TEST_CUDA
  std::string error;
  auto backend = CreateCudaBackend({.threads = threads, .activations = DType::kF32}, &error);
  EXPECT_NE(backend, nullptr) << error;
  return backend;
#else
  return CreateCpuBackend({.threads = threads});
#endif
}

// Six slots, filled with what must not be read.
class Stream {
 public:
  Stream(const Shape& shape, int rollback, int threads = 2) : backend_(MakeBackend(threads)) {
    args_.q_column = 0;
    args_.k_column = shape.heads * shape.head_dim;
    args_.v_column = args_.k_column + shape.key_heads * shape.head_dim;
    args_.heads = shape.heads;
    args_.key_heads = shape.key_heads;
    args_.head_dim = shape.head_dim;
    args_.window = shape.window;
    args_.rotary_base = 100;
    args_.rollback = rollback;
    args_.ring_offset = kRingOffset;
    args_.slots.slot_bytes = kRingOffset + args_.ring_bytes();
    const std::vector<float> slots(6 * args_.slots.slot_bytes / sizeof(float), NAN);
    args_.slots.base = static_cast<std::byte*>(Put(slots));
  }

  // Projections of the rows' tokens, [token, columns] -> [token, outputs].
  std::vector<float> Attend(const std::vector<Row>& rows, const std::vector<float>& projected) {
    const int64_t columns = (args_.heads + 2 * args_.key_heads) * args_.head_dim;
    const int64_t outputs = args_.heads * args_.head_dim;
    const size_t tokens = projected.size() / static_cast<size_t>(columns);
    std::vector<float> padded = projected;
    padded.resize((tokens + kStepPadding) * static_cast<size_t>(columns));
    std::vector<float> y(tokens * static_cast<size_t>(outputs));
    std::vector<float> padded_y((tokens + kStepPadding) * static_cast<size_t>(outputs));
    args_.projected = {Put(padded), DType::kF32, columns};
    args_.y = {Put(padded_y), DType::kF32, outputs};
    const std::vector<int32_t> ids(tokens);
    StepInput input;
    input.rows = rows.data();
    input.row_count = static_cast<int>(rows.size());
    input.tokens = ids.data();
    input.token_count = static_cast<int>(tokens);
    backend_->BeginStep(input);
    backend_->WindowAttention(args_);
    backend_->Collect(backend_->Launch());
    EXPECT_EQ(backend_->error(), "");
    backend_->Download(y.data(), args_.y.data, y.size() * sizeof(float));
    backend_->Free(args_.projected.data);
    backend_->Free(args_.y.data);
    return y;
  }

 private:
  void* Put(const std::vector<float>& values) {
    void* const memory = backend_->Allocate(values.size() * sizeof(float));
    backend_->Upload(memory, values.data(), values.size() * sizeof(float));
    return memory;
  }

  std::unique_ptr<Backend> backend_;
  WindowAttentionArgs args_;
};

std::vector<float> Tokens(const Shape& shape, const std::vector<float>& sequence, int begin,
                          int end) {
  const auto at = [&](int token) { return sequence.begin() + ptrdiff_t{token} * shape.columns(); };
  return {at(begin), at(end)};
}

// Tokens [begin, end) of a sequence, one row in `slot`.
std::vector<float> AttendPart(Stream& stream, const Shape& shape,
                              const std::vector<float>& sequence, int slot, int begin, int end) {
  return stream.Attend({Row{.slot = slot, .tokens = end - begin, .position = begin}},
                       Tokens(shape, sequence, begin, end));
}

void Append(const std::vector<float>& from, std::vector<float>* to) {
  to->insert(to->end(), from.begin(), from.end());
}

std::vector<double> Rotated(const float* x, int dim, int position) {
  std::vector<double> y(static_cast<size_t>(dim));
  for (int i = 0; i < dim / 2; ++i) {
    const double angle = position * std::pow(100.0, -2.0 * i / dim);
    y[static_cast<size_t>(i)] = x[i] * std::cos(angle) - x[i + dim / 2] * std::sin(angle);
    y[static_cast<size_t>(i + dim / 2)] = x[i + dim / 2] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return y;
}

struct Expected {
  std::vector<double> values, tolerance;
};

// One query head of the token at `t`.
void AttendInDouble(const Shape& shape, const std::vector<float>& sequence, int t, int head,
                    Expected* expected) {
  const int dim = shape.head_dim;
  const int key_head = head * shape.key_heads / shape.heads;
  const auto token = [&](int at) { return sequence.data() + ptrdiff_t{at} * shape.columns(); };
  const std::vector<double> q = Rotated(token(t) + head * dim, dim, t);
  const int begin = std::max(0, t - shape.window + 1);
  std::vector<double> p;
  double sum = 0;
  double magnitude = 0;  // of the largest score's terms
  for (int j = begin; j <= t; ++j) {
    const auto k = Rotated(token(j) + (shape.heads + key_head) * dim, dim, j);
    double score = 0;
    double terms = 0;
    for (size_t i = 0; i < q.size(); ++i) {
      score += q[i] * k[i] / std::sqrt(dim);
      terms += std::fabs(q[i] * k[i]) / std::sqrt(dim);
    }
    magnitude = std::max(magnitude, terms);
    p.push_back(std::exp(score));
    sum += p.back();
  }
  for (int c = 0; c < dim; ++c) {
    double value = 0;
    double total = 0;
    for (int j = begin; j <= t; ++j) {
      const double v = token(j)[(shape.heads + shape.key_heads + key_head) * dim + c];
      value += p[static_cast<size_t>(j - begin)] / sum * v;
      total += p[static_cast<size_t>(j - begin)] / sum * std::fabs(v);
    }
    expected->values.push_back(value);
    // A score has the errors of its dim products (each within 8 roundings: rotation twice, product)
    // and a sum over `window` tokens adds as many roundings, of which the root counts.
    const double roundings = 16 * magnitude + 8 + 2 * std::sqrt(t + 1 - begin);
    expected->tolerance.push_back(test::kEps * roundings * total);
  }
}

TEST(WindowAttentionTest, EqualsTheSoftmaxOverTheWindow) {
  constexpr int kTokens = 70;
  for (const Shape& shape : {Shape{4, 4, 32, 16}, Shape{6, 2, 10, 100}, Shape{4, 1, 72, 33},
                             Shape{2, 2, 6, 1}, Shape{1, 1, 256, 2}}) {
    SCOPED_TRACE(testing::Message()
                 << shape.heads << " heads of " << shape.head_dim << ", window " << shape.window);
    const std::vector<float> sequence =
        RandomFloats(static_cast<size_t>(kTokens * shape.columns()), 1, 2);
    Expected expected;
    for (int t = 0; t < kTokens; ++t) {
      for (int head = 0; head < shape.heads; ++head) {
        AttendInDouble(shape, sequence, t, head, &expected);
      }
    }
    Stream stream(shape, 2);
    test::ExpectClose(AttendPart(stream, shape, sequence, 1, 0, kTokens), expected.values,
                      expected.tolerance);
  }
}

TEST(WindowAttentionTest, BitsDoNotDependOnHowTokensArrive) {
  constexpr int kTokens = 150;
  for (const Shape& shape : {Shape{4, 2, 24, 17}, Shape{8, 1, 16, 64}, Shape{2, 2, 8, 1}}) {
    const std::vector<float> sequence =
        RandomFloats(static_cast<size_t>(kTokens * shape.columns()), 2);
    for (const int rollback : {0, 2}) {
      Stream whole(shape, rollback, 1);
      const std::vector<float> expected = AttendPart(whole, shape, sequence, 0, 0, kTokens);
      for (const int chunk : {1, 2, 7, 16, 64, 149}) {
        Stream stream(shape, rollback, 3);
        std::vector<float> actual;
        for (int at = 0; at < kTokens; at += chunk) {
          Append(AttendPart(stream, shape, sequence, 2, at, std::min(kTokens, at + chunk)),
                 &actual);
        }
        EXPECT_EQ(actual, expected) << "chunk " << chunk << ", rollback " << rollback;
      }
    }
  }
}

TEST(WindowAttentionTest, RollbackLeavesNoTrace) {
  constexpr int kTokens = 60;
  const Shape shape{4, 2, 8, 9};
  const std::vector<float> sequence =
      RandomFloats(static_cast<size_t>(kTokens * shape.columns()), 3);
  const std::vector<float> rejected =
      RandomFloats(static_cast<size_t>(kTokens * shape.columns()), 4);
  for (const int rollback : {1, 3}) {
    Stream plain(shape, rollback);
    const std::vector<float> expected = AttendPart(plain, shape, sequence, 0, 0, kTokens);
    Stream stream(shape, rollback);
    std::vector<float> actual;
    for (int t = 0; t < kTokens; ++t) {
      const int end = std::min(kTokens, t + rollback);
      AttendPart(stream, shape, rejected, 0, t, end);
      Append(AttendPart(stream, shape, sequence, 0, t, t + 1), &actual);
    }
    EXPECT_EQ(actual, expected) << rollback;
  }
}

TEST(WindowAttentionTest, CompanySlotAndThreadsChangeNoBit) {
  constexpr int kSessions = 5;
  constexpr int kTokens = 50;
  const Shape shape{6, 3, 12, 11};
  for (const int threads : {1, 2, 5}) {
    Stream together(shape, 2, threads);
    std::vector<std::vector<float>> sequences;
    std::vector<std::vector<float>> outputs(kSessions);
    std::vector<int> at(kSessions, 0);
    for (uint32_t s = 0; s < kSessions; ++s) {
      sequences.push_back(RandomFloats(static_cast<size_t>(kTokens * shape.columns()), 10 + s));
    }
    std::mt19937 random(5);
    while (*std::min_element(at.begin(), at.end()) < kTokens) {
      std::vector<Row> rows;
      std::vector<size_t> who;
      std::vector<float> projected;
      for (size_t s = 0; s < kSessions; ++s) {
        const int end = std::min<int>(kTokens, at[s] + static_cast<int>(random() % 9));
        if (end > at[s]) {
          const auto first = static_cast<int32_t>(projected.size()) / shape.columns();
          rows.push_back({static_cast<int32_t>(kSessions - s), first, end - at[s], at[s]});
          Append(Tokens(shape, sequences[s], at[s], end), &projected);
          who.push_back(s);
          at[s] = end;
        }
      }
      const std::vector<float> y = together.Attend(rows, projected);
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto begin = y.begin() + ptrdiff_t{rows[i].first_token} * shape.outputs();
        Append({begin, begin + ptrdiff_t{rows[i].tokens} * shape.outputs()}, &outputs[who[i]]);
      }
    }
    for (size_t s = 0; s < kSessions; ++s) {
      Stream alone(shape, 2, 1);
      EXPECT_EQ(outputs[s], AttendPart(alone, shape, sequences[s], 0, 0, kTokens));
    }
  }
}

// What is not finite shows in every token that sees it, and in no other.
TEST(WindowAttentionTest, NanStaysInItsWindow) {
  constexpr int kTokens = 30;
  const Shape shape{2, 2, 8, 5};
  for (const int column : {0, 2 * 8, 4 * 8}) {  // of a query, a key, a value
    std::vector<float> sequence = RandomFloats(static_cast<size_t>(kTokens * shape.columns()), 6);
    sequence[static_cast<size_t>(10 * shape.columns() + column)] = NAN;
    Stream stream(shape, 0);
    const std::vector<float> y = AttendPart(stream, shape, sequence, 0, 0, kTokens);
    for (int t = 0; t < kTokens; ++t) {
      const bool sees = column == 0 ? t == 10 : t >= 10 && t < 15;
      EXPECT_EQ(std::isnan(y[static_cast<size_t>(t * shape.outputs())]), sees) << t;
      EXPECT_FALSE(std::isnan(y[static_cast<size_t>(t * shape.outputs() + 8)])) << t;
    }
  }
}

}  // namespace
}  // namespace evenflow
