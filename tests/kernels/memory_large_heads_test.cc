// Shapes that a device may have faster kernels for: the same bits token by token as in short rows,
// with a neighbour and after tokens were taken back. memory_test compares such rows with the
// recurrence.
#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/memory_sessions.h"

namespace evenflow {
namespace {

constexpr int kTokens = 70;

void ExpectSameBits(const MemorySetup& setup) {
  const int rollback = setup.window.rollback;
  const MemoryInputs inputs = RandomInputs(setup, kTokens, 18);
  const MemoryInputs other = RandomInputs(setup, kTokens, 19);
  MemorySessions sessions(setup, 3, 1);
  const auto chunked = sessions.Run(0, inputs, 0, kTokens, 11);
  std::vector<float> outputs;
  for (int t = 0; t < kTokens; ++t) {
    const auto o = sessions.Step({{2, &other, t, t + 1}, {1, &inputs, t, t + 1}});
    outputs.insert(outputs.end(), o[1].begin(), o[1].end());
    const int begin = std::max(0, t + 1 - rollback);
    if (t % 3 == 0 && begin <= t) {  // the neighbour's newest tokens again
      sessions.Step({{2, &other, begin, t + 1}});
    }
    if (rollback > 0 && t + 1 < kTokens) {  // a token that is taken back
      sessions.Run(1, Splice(setup, inputs, t + 1, other), t + 1, t + 2, 1);
    }
  }
  EXPECT_EQ(outputs, chunked);
  EXPECT_EQ(sessions.StoredState(1), sessions.StoredState(0));
  sessions.Reset(1);
  EXPECT_EQ(sessions.Run(1, inputs, 0, kTokens, 4), chunked) << "4 tokens a step";
  EXPECT_EQ(sessions.StoredState(1), sessions.StoredState(0));
}

class MemoryLargeHeadsTest : public ::testing::TestWithParam<MemoryKind> {};

TEST_P(MemoryLargeHeadsTest, SingleTokensChangeNoBit) {
  if (const char* refused = DeviceRefusal(GetParam())) {
    GTEST_SKIP() << "not on this device: " << refused;
  }

  constexpr struct {
    MemoryShape shape;
    Window window;
  } kCases[] = {{{4, 2, 1, 2, 64, 36}, {7, 3}},     {{2, 2, 2, 2, 64, 64}, {16, 2}},
                {{2, 2, 2, 2, 128, 160}, {16, 2}},  {{2, 2, 2, 2, 128, 128}, {1, 0}},
                {{1, 1, 1, 1, 256, 200}, {16, 16}}, {{1, 1, 1, 1, 256, 512}, {16, 1}}};

  for (const auto& [shape, window] : kCases) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(testing::Message() << shape.key_dim << "x" << shape.value_dim << " C "
                                      << window.commit << " " << Name(dtype));
      const MemorySetup setup = Fitted({GetParam(), shape, window, dtype});
      // Each head of VLA has keys of its own.
      if (!setup.mode.has_value() || shape.key_heads == shape.heads) {
        ExpectSameBits(setup);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, MemoryLargeHeadsTest, ::testing::ValuesIn(kMemoryKinds),
                         [](const auto& tested) { return Name(tested.param); });

}  // namespace
}  // namespace evenflow
