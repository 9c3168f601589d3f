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

#include "tests/support/expect_near.h"
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
  void SetUp() override {
    if (const char* refused = DeviceRefusal(kKindOf<Memory>)) {
      GTEST_SKIP() << "not on this device: " << refused;
    }
  }

  static MemorySetup Setup(const MemoryShape& shape, Window window, DType dtype = DType::kF32) {
    return Fitted({kKindOf<Memory>, shape, window, dtype});
  }
};

TYPED_TEST_SUITE(MemoryTest, Memories, MemoryName);

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

TYPED_TEST(MemoryTest, AnyHeadSizeIsTheRecurrence) {
  constexpr struct {
    int key_dim, value_dim;
  } kSizes[] = {{1, 1}, {16, 16}, {17, 33}, {64, 64}, {128, 129}, {256, 512}};

  for (const auto size : kSizes) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(testing::Message()
                   << size.key_dim << "x" << size.value_dim << " " << Name(dtype));
      const int tokens = size.key_dim > 128 ? 40 : 80;
      const MemorySetup setup =
          this->Setup(PlainShape(2, size.key_dim, size.value_dim), {16, 2}, dtype);
      const MemoryInputs inputs = RandomInputs(setup, tokens, 2);
      MemorySessions sessions(setup, 1, 1);
      ExpectNear(setup, sessions.Run(0, inputs, 0, tokens, 7), RunReference(setup, inputs, tokens));
    }
  }
}

TYPED_TEST(MemoryTest, GroupedHeadsAreTheRecurrence) {
  // heads, query heads, key heads, value heads
  constexpr MemoryShape kShapes[] = {
      {2, 6, 2, 2, 16, 24},  // several queries share a state
      {1, 4, 1, 1, 16, 24}, {6, 2, 6, 6, 16, 24},
      {6, 6, 2, 3, 16, 24},  // several states share a key or a value
      {6, 3, 1, 2, 16, 24}, {4, 8, 2, 4, 17, 33},
  };
  for (const MemoryShape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << shape.heads << " " << shape.query_heads << " "
                                    << shape.key_heads << " " << shape.value_heads);
    const MemorySetup setup = this->Setup(shape, {7, 2});
    if (setup.mode.has_value()) {
      GTEST_SKIP() << "each head of VLA has keys, queries and values of its own";
    }
    const MemoryInputs inputs = RandomInputs(setup, 60, 3);
    MemorySessions sessions(setup, 1, 1);
    ExpectNear(setup, sessions.Run(0, inputs, 0, 60, 11), RunReference(setup, inputs, 60));
  }
}

TYPED_TEST(MemoryTest, ChunksChangeNoBit) {
  for (const Window window : kWindows) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(testing::Message() << "C " << window.commit << " R " << window.rollback);
      const MemorySetup setup = this->Setup(PlainShape(2, 17, 150), window, dtype);
      const MemoryInputs inputs = RandomInputs(setup, 200, 4);
      MemorySessions sessions(setup, 2, 1);
      const auto expected = sessions.Run(0, inputs, 0, 200, 1);
      for (const int chunk : {5, 64, 200}) {
        if (chunk < DevicePromptTokens()) {
          sessions.Reset(1);
          EXPECT_EQ(sessions.Run(1, inputs, 0, 200, chunk), expected) << "chunks of " << chunk;
          EXPECT_EQ(sessions.StoredState(1), sessions.StoredState(0));
        }
      }
      sessions.Reset(1);
      std::mt19937 random(5);
      std::vector<float> outputs;
      const auto most = static_cast<unsigned>(std::min(40, DevicePromptTokens() - 1));
      for (int at = 0; at < 200;) {
        const int end = std::min<int>(200, at + 1 + static_cast<int>(random() % most));
        const auto o = sessions.Run(1, inputs, at, end, 200);
        outputs.insert(outputs.end(), o.begin(), o.end());
        at = end;
      }
      EXPECT_EQ(outputs, expected) << "random chunks";
    }
  }
}

// Takes n <= R tokens back at every position, over the starts of blocks as well, and goes on with
// others: as if the first had never been.
TYPED_TEST(MemoryTest, RollbackLeavesNoTrace) {
  for (const Window window : {Window{1, 2}, Window{1, 5}, Window{7, 2}, Window{16, 3}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(testing::Message() << "C " << window.commit << " R " << window.rollback);
      const MemorySetup setup = this->Setup(PlainShape(2, 16, 24), window, dtype);
      const MemoryInputs inputs = RandomInputs(setup, 80, 6);
      const MemoryInputs rejected = RandomInputs(setup, 80, 7);
      MemorySessions sessions(setup, 2, 1);
      const auto expected = sessions.Run(0, inputs, 0, 80, 1);
      std::mt19937 random(8);
      std::vector<float> outputs;
      for (int at = 0; at < 80; ++at) {
        const int drafted =
            std::min<int>(80 - at, static_cast<int>(random() % unsigned(window.rollback + 1)));
        const MemoryInputs drafts = Splice(setup, inputs, at, rejected);
        sessions.Run(1, drafts, at, at + drafted, random() % 2 == 0 ? 1 : 8);
        const auto o = sessions.Run(1, inputs, at, at + 1, 1);
        outputs.insert(outputs.end(), o.begin(), o.end());
      }
      EXPECT_EQ(outputs, expected);
    }
  }
}

// A row's bits do not depend on its neighbours, its slot, what was in the slot before, the number
// of threads, or how its columns are split over them.
TYPED_TEST(MemoryTest, CompanySlotAndThreadsChangeNoBit) {
  const MemorySetup setup = this->Setup(PlainShape(2, 20, 300), {7, 2});
  constexpr int kSessions = 5;
  std::vector<MemoryInputs> inputs;
  for (uint32_t s = 0; s < kSessions; ++s) {
    inputs.push_back(RandomInputs(setup, 60, 20 + s));
  }
  for (const int threads : {1, 2, 7}) {
    MemorySessions alone(setup, 1, 1);
    MemorySessions together(setup, kSessions + 1, threads);
    std::vector<std::vector<float>> outputs(kSessions);
    std::vector<int> at(kSessions, 0);
    std::mt19937 random(9);
    while (*std::min_element(at.begin(), at.end()) < 60) {
      std::vector<MemoryRow> rows;
      std::vector<size_t> who;
      for (size_t s = 0; s < kSessions; ++s) {
        const int end = std::min<int>(60, at[s] + static_cast<int>(random() % 9));
        if (end > at[s]) {
          rows.push_back({static_cast<int>(kSessions - s), &inputs[s], at[s], end});
          who.push_back(s);
          at[s] = end;
        }
      }
      const auto o = together.Step(rows);
      for (size_t i = 0; i < who.size(); ++i) {
        outputs[who[i]].insert(outputs[who[i]].end(), o[i].begin(), o[i].end());
      }
    }
    for (size_t s = 0; s < kSessions; ++s) {
      alone.Reset(0);
      EXPECT_EQ(outputs[s], alone.Run(0, inputs[s], 0, 60, 1)) << "threads " << threads;
      EXPECT_EQ(together.StoredState(static_cast<int>(kSessions - s)), alone.StoredState(0));
    }
  }
}

TYPED_TEST(MemoryTest, AForkGoesOnAsTheOriginal) {
  const MemorySetup setup = this->Setup(PlainShape(2, 16, 24), {16, 2});
  const MemoryInputs inputs = RandomInputs(setup, 120, 10);
  std::mt19937 random(11);
  for (int trial = 0; trial < 10; ++trial) {
    const int at = static_cast<int>(random() % 100);
    MemorySessions sessions(setup, 3, 1);
    sessions.Run(2, RandomInputs(setup, 40, 12), 0, 40, 3);  // a stale slot
    sessions.Run(0, inputs, 0, at, 9);
    sessions.CopySlot(2, 0);
    const auto original = sessions.Run(0, inputs, at, 120, 1);
    EXPECT_EQ(sessions.Run(2, inputs, at, 120, 5), original) << "forked at " << at;
  }
}

TYPED_TEST(MemoryTest, HealthIsThatOfTheStoredState) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Window window : {Window{1, 0}, Window{7, 2}, Window{16, 2}}) {
      const MemorySetup setup = this->Setup(PlainShape(3, 17, 150), window, dtype);
      const MemoryInputs inputs = RandomInputs(setup, 100, 13);
      MemorySessions sessions(setup, 1, 2);
      int commits = 0;
      for (int t = 0; t < 100; ++t) {
        sessions.Run(0, inputs, t, t + 1, 1);
        const StateHealth health = sessions.health()[0];
        const int64_t before = t == 0 ? 0 : setup.window.Stored(t - 1);
        ASSERT_EQ(health.committed, setup.window.Stored(t) > before) << "token " << t;
        if (!health.committed) {
          continue;
        }
        ++commits;
        double square = 0;
        float max_abs = 0;
        for (const float s : sessions.StoredState(0)) {
          square += static_cast<double>(s) * static_cast<double>(s);
          max_abs = std::max(max_abs, std::abs(s));
        }
        // Sums over key_dim are in fp32.
        EXPECT_NEAR(health.norm, std::sqrt(square),
                    17 * std::numeric_limits<float>::epsilon() * std::sqrt(square));
        EXPECT_EQ(health.max_abs, max_abs);
        EXPECT_EQ(health.non_finite, 0);
      }
      EXPECT_GE(commits, setup.window.Committed(100 - setup.window.lag) / setup.window.commit - 1);
    }
  }
}

TYPED_TEST(MemoryTest, StoredStateIsThatOfTheRecurrence) {
  const MemorySetup setup = this->Setup(PlainShape(2, 16, 24), {16, 2});
  const MemoryInputs inputs = RandomInputs(setup, 98, 14);
  MemorySessions sessions(setup, 1, 1);
  sessions.Run(0, inputs, 0, 98, 13);
  const auto tokens = static_cast<int>(setup.window.Stored(97));
  ASSERT_GE(tokens, 64);
  const MemoryReference reference = RunReference(setup, inputs, tokens);
  const std::vector<float> stored = sessions.StoredState(0);
  ASSERT_EQ(stored.size(), reference.states.size());
  double error = 0;
  for (size_t i = 0; i < stored.size(); ++i) {
    error = std::hypot(error, static_cast<double>(stored[i]) - reference.states[i]);
  }
  const double peak = *std::max_element(reference.peak_norms.begin(), reference.peak_norms.end());
  // As in ExpectNear, over two heads.
  EXPECT_LE(error,
            2 * std::numeric_limits<float>::epsilon() * std::sqrt(2 * (16 + 16 + 96)) * peak);
}

TYPED_TEST(MemoryTest, BadInputIsCountedAndStaysInItsSession) {
  const MemorySetup setup = this->Setup(PlainShape(2, 16, 24), {7, 2});
  const MemoryInputs good = RandomInputs(setup, 40, 15);
  MemoryInputs bad = RandomInputs(setup, 40, 16);
  bad.v[5 * 2 * 24 + 3] = std::nanf("");  // token 5, head 0, one column
  MemorySessions sessions(setup, 2, 1);
  MemorySessions alone(setup, 1, 1);
  int32_t counted = 0;
  for (int t = 0; t < 40; ++t) {
    const auto o = sessions.Step({{0, &bad, t, t + 1}, {1, &good, t, t + 1}});
    EXPECT_EQ(o[1], alone.Step({{0, &good, t, t + 1}})[0]);
    counted = std::max(counted, sessions.health()[0].non_finite);
    EXPECT_EQ(sessions.health()[1].non_finite, 0);
    EXPECT_TRUE(std::isfinite(sessions.health()[0].norm)) << "of the finite elements";
  }
  // A column of each state that the token is written to.
  const int states = setup.memory == MemoryKind::kVort ? setup.shape.banks : 1;
  EXPECT_EQ(counted, 16 * states);
}

// 20,000 tokens: within the declared bound and still the recurrence.
TYPED_TEST(MemoryTest, LongRunsStayWithinTheDeclaredBound) {
  constexpr int kTokens = 20000;
  const MemorySetup setup = this->Setup(PlainShape(1, 16, 16), {16, 2});
  const MemoryInputs inputs = RandomInputs(setup, kTokens, 17);
  MemorySessions sessions(setup, 1, 1);
  double max_value = 0;  // the largest |v|
  for (int t = 0; t < kTokens; ++t) {
    double square = 0;
    for (int c = 0; c < 16; ++c) {
      const auto v = static_cast<double>(inputs.v[static_cast<size_t>(t * 16 + c)]);
      square += v * v;
    }
    max_value = std::max(max_value, std::sqrt(square));
  }
  std::vector<float> outputs;
  for (int t = 0; t < kTokens; t += 50) {
    const auto o = sessions.Run(0, inputs, t, t + 50, 50);
    outputs.insert(outputs.end(), o.begin(), o.end());
    const StateHealth health = sessions.health()[0];
    if (!health.committed) {
      continue;
    }
    double bound = max_value;
    switch (TypeParam::kBound) {
      case Bound::kConstant:
        bound /= -std::expm1(static_cast<double>(inputs.log_decay[0]));
        break;
      case Bound::kSqrt:
        bound *= std::sqrt(t + 50);
        break;
      case Bound::kLinear:
        bound *= t + 50;
        break;
      case Bound::kNone:
        bound = std::numeric_limits<double>::max();
        break;
    }
    ASSERT_LE(health.norm, bound * (1 + 1e-5)) << "token " << t;
  }
  ExpectNear(setup, outputs, RunReference(setup, inputs, kTokens));
}

}  // namespace
}  // namespace evenflow
