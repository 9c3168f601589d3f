// Every memory of the registry against a recurrence in double precision, and the properties that
// the window promises: the same bits however tokens arrive.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/memory_reference.h"
#include "tests/support/memory_sessions.h"

namespace evenflow {
namespace {

template <class First, class... Memories>
using TypesAfter = ::testing::Types<Memories...>;
#define EVENFLOW_COMMA_MEMORY(memory) , memory
using Memories = TypesAfter<void EVENFLOW_MEMORIES(EVENFLOW_COMMA_MEMORY)>;
#undef EVENFLOW_COMMA_MEMORY

struct MemoryName {
  template <class Memory>
  static std::string GetName(int /*index*/) {
    return Memory::kName;
  }
};

template <class Memory>
class MemoryTest : public ::testing::Test {
 protected:
  static MemorySetup Setup(const MemoryShape& shape, Window window, DType dtype = DType::kF32) {
    return {kKindOf<Memory>, shape, window, dtype};
  }
};

TYPED_TEST_SUITE(MemoryTest, Memories, MemoryName);

// Checks outputs [token, output_heads, value_dim] by the norm of each head's error.
//
// The error of a read with a unit query is at most that of the state (Cauchy-Schwarz). Each token
// rounds the state or its part in it about once, and a read is a sum of key_dim + window products;
// such errors are independent and add like a random walk, relative to the largest state so far (a
// delta rule never amplifies them: its factor has norm 1). 2 is for what is neither.
// A bf16 state is rounded once a fold besides, by at most 2^-9 relative.
void ExpectNear(const MemorySetup& setup, const std::vector<float>& got,
                const MemoryReference& expected) {
  const MemoryShape& shape = setup.shape;
  const auto dim = static_cast<size_t>(shape.value_dim);
  const auto heads = static_cast<size_t>(shape.output_heads());
  ASSERT_EQ(got.size(), expected.outputs.size());
  double worst = 0;
  std::string where;
  for (size_t i = 0; i < got.size() / dim; ++i) {
    double error = 0;
    for (size_t c = 0; c < dim; ++c) {
      error =
          std::hypot(error, static_cast<double>(got[i * dim + c]) - expected.outputs[i * dim + c]);
    }
    const size_t token = i / heads;
    const size_t state_head = i % heads / (heads / static_cast<size_t>(shape.heads));
    const double peak = expected.peak_norms[token * static_cast<size_t>(shape.heads) + state_head];
    const auto steps = static_cast<double>(token + 1);
    double relative = 2 * std::numeric_limits<float>::epsilon() *
                      std::sqrt(shape.key_dim + setup.window.commit + steps);
    if (setup.state_dtype == DType::kBF16) {
      relative += std::ldexp(1.0, -9) * std::sqrt(std::ceil(steps / setup.window.commit));
    }
    const double ratio = error / (relative * peak);
    if (!(ratio <= worst)) {
      worst = ratio;
      where = "token " + std::to_string(token) + ", head " + std::to_string(i % heads) +
              ", error " + std::to_string(error) + " of " + std::to_string(peak);
    }
  }
  EXPECT_LE(worst, 1) << where;
}

constexpr Window kWindows[] = {{1, 0},  {1, 2},  {1, 5},  {7, 0},  {7, 2},  {7, 5},
                               {16, 0}, {16, 2}, {16, 5}, {32, 0}, {32, 2}, {32, 5}};

TYPED_TEST(MemoryTest, AnyWindowIsTheRecurrence) {
  for (const Window window : kWindows) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(testing::Message()
                   << "C " << window.commit << " R " << window.rollback << " " << Name(dtype));
      const MemorySetup setup = this->Setup(PlainShape(2, 16, 24), window, dtype);
      const MemoryInputs inputs = RandomInputs(setup, 150, 1);
      MemorySessions sessions(setup, 1, 1);
      ExpectNear(setup, sessions.Run(0, inputs, 0, 150, 1), RunReference(setup, inputs, 150));
    }
  }
}

}  // namespace
}  // namespace evenflow
