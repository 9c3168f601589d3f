// VLA's stage on the CUDA device against the CPU's, which has tests against its formulas; and the
// same bits however tokens arrive.
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

constexpr int kTokens = 90;

// What the stage leaves of all tokens.
struct Result {
  std::vector<float> q, beta, w, e;
  std::vector<StateHealth> health;  // of A, [step]
};

class CudaPreconditionTest : public testing::TestWithParam<PreconditionMode> {
 protected:
  static std::unique_ptr<Backend> Make(bool cuda) {
    std::string error;
    std::unique_ptr<Backend> backend =
        cuda ? CreateCudaBackend({.threads = 0, .activations = DType::kF32}, &error)
             : CreateCpuBackend({.threads = 2});
    EXPECT_NE(backend, nullptr) << error;
    return backend;
  }

  // All tokens of one session, in steps that end at `ends`; short steps are taken twice where
  // `drafts`, the first time with other keys. A step's arguments are at the same addresses in all
  // steps, as graphs want it.
  static Result Run(Backend& backend, const Preconditioner& of, const Window& window,
                    const std::vector<int>& ends, bool drafts) {
    const auto dim = static_cast<size_t>(of.key_dim);
    const auto heads = static_cast<size_t>(of.heads);
    const size_t entries = of.mode == PreconditionMode::kRls ? 2 : 1;
    const size_t vectors = kTokens * heads;
    const size_t size = vectors * dim;
    const std::vector<float> k = RandomFloats(size, 1), other = RandomFloats(size, 2),
                             q = RandomFloats(size, 3), beta = RandomFloats(vectors, 4),
                             u_weight = RandomFloats(heads * dim * dim, 5);
    const size_t bytes = LayoutOf(of, window).bytes;
    std::vector<void*> blocks;
    const auto allocate = [&](size_t count) {
      blocks.push_back(backend.Allocate(count * sizeof(float)));
      return static_cast<float*>(blocks.back());
    };
    PreconditionArgs args;
    args.preconditioner = of;
    args.window = window;
    args.slots = {reinterpret_cast<std::byte*>(allocate(2 * bytes / sizeof(float))), bytes};
    float* const weight = allocate(u_weight.size());
    backend.Upload(weight, u_weight.data(), u_weight.size() * sizeof(float));
    args.u_weight = weight;
    float* const key = allocate(size);
    args.k = key;
    args.q = allocate(size);
    args.beta = allocate(vectors);
    args.w = allocate(size * entries);
    args.e = allocate(size * entries);
    Result result;
    int begin = 0;
    for (const int end : ends) {
      const Row row = {1, 0, end - begin, begin};
      const std::vector<int32_t> tokens(static_cast<size_t>(row.tokens));
      StepInput input;
      input.rows = &row;
      input.row_count = 1;
      input.tokens = tokens.data();
      input.token_count = row.tokens;
      const size_t at = static_cast<size_t>(begin) * heads;
      const size_t count = static_cast<size_t>(row.tokens) * heads;
      const auto step = [&](const std::vector<float>& keys) {
        backend.Upload(key, keys.data() + at * dim, count * dim * sizeof(float));
        backend.Upload(args.q, q.data() + at * dim, count * dim * sizeof(float));
        backend.Upload(args.beta, beta.data() + at, count * sizeof(float));
        backend.BeginStep(input);
        backend.Precondition(args);
        return backend.Collect(backend.Launch()).health[0];
      };
      if (drafts && row.tokens <= window.rollback) {
        step(other);
      }
      result.health.push_back(step(k));
      const auto take = [&](const float* from, size_t taken, std::vector<float>* to) {
        to->resize(to->size() + taken);
        backend.Download(to->data() + to->size() - taken, from, taken * sizeof(float));
      };
      take(args.q, count * dim, &result.q);
      take(args.beta, count, &result.beta);
      take(args.w, count * dim * entries, &result.w);
      take(args.e, count * dim * entries, &result.e);
      begin = end;
    }
    EXPECT_EQ(backend.error(), "");
    for (void* block : blocks) {
      backend.Free(block);
    }
    return result;
  }

  // Ends of steps of `chunk` tokens.
  static std::vector<int> Chunks(int chunk) {
    std::vector<int> ends;
    for (int end = chunk; end < kTokens; end += chunk) {
      ends.push_back(end);
    }
    ends.push_back(kTokens);
    return ends;
  }
};

double RelativeError(const std::vector<float>& got, const std::vector<float>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference = std::hypot(difference, static_cast<double>(got[i]) - double{expected[i]});
    norm = std::hypot(norm, double{expected[i]});
  }
  return difference / norm;
}

// Both devices are within 100 roundings of double precision (precondition_test.cc).
constexpr double kTolerance = 200 * 0x1p-23;

TEST_P(CudaPreconditionTest, IsThatOfTheCpu) {
  const std::unique_ptr<Backend> cpu = Make(false), cuda = Make(true);
  ASSERT_NE(cuda, nullptr);
  for (const int dim : {16, 17, 64, 128, 256}) {
    for (const double mu : {0.99, 1.0, 0.9}) {
      for (const Window window :
           {Window{1, 0}, Window{7, 2}, Window{16, 2}, Window{32, 5}, Window{5000, 2}}) {
        SCOPED_TRACE(testing::Message() << "d_k " << dim << " mu " << mu << " C " << window.commit);
        const Preconditioner of = {GetParam(), 0.5, mu, 3, dim};
        const Result expected = Run(*cpu, of, window, Chunks(13), false);
        const Result got = Run(*cuda, of, window, Chunks(13), false);
        EXPECT_LE(RelativeError(got.q, expected.q), kTolerance);
        EXPECT_LE(RelativeError(got.beta, expected.beta), kTolerance);
        EXPECT_LE(RelativeError(got.w, expected.w), kTolerance);
        for (size_t i = 0; i < expected.health.size(); ++i) {
          const StateHealth& of_cpu = expected.health[i];
          EXPECT_EQ(got.health[i].committed, of_cpu.committed) << "step " << i;
          EXPECT_NEAR(got.health[i].norm, of_cpu.norm, kTolerance * double{of_cpu.norm});
          EXPECT_NEAR(got.health[i].max_abs, of_cpu.max_abs, kTolerance * double{of_cpu.norm});
          EXPECT_EQ(got.health[i].non_finite, 0);
        }
        EXPECT_TRUE(of.mode == PreconditionMode::kStar || of.mode == PreconditionMode::kSym ||
                    RelativeError(got.e, expected.e) <= kTolerance);
      }
    }
  }
}

TEST_P(CudaPreconditionTest, ChunksAndRollbackChangeNoBit) {
  const std::unique_ptr<Backend> cuda = Make(true);
  ASSERT_NE(cuda, nullptr);
  for (const int dim : {40, 64, 128}) {
    for (const Window window : {Window{1, 2}, Window{7, 3}, Window{16, 2}}) {
      SCOPED_TRACE(testing::Message()
                   << "d_k " << dim << " C " << window.commit << " R " << window.rollback);
      const Preconditioner of = {GetParam(), 0.5, 0.97, 2, dim};
      const Result expected = Run(*cuda, of, window, Chunks(1), false);
      std::mt19937 random(9);
      std::vector<int> ends;
      for (int end = 0; end < kTokens;) {
        end = std::min(kTokens, end + 1 + static_cast<int>(random() % 3));
        ends.push_back(end);
      }
      for (const std::vector<int>& steps : {Chunks(5), Chunks(64), Chunks(1), ends}) {
        const Result got = Run(*cuda, of, window, steps, true);
        EXPECT_EQ(got.q, expected.q);
        EXPECT_EQ(got.beta, expected.beta);
        EXPECT_EQ(got.w, expected.w);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, CudaPreconditionTest, testing::ValuesIn(kPreconditionModes),
                         [](const auto& param) { return std::string(Name(param.param)); });

}  // namespace
}  // namespace evenflow
