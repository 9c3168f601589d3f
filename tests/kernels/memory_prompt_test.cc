// Rows of many tokens, which a device may read in chunks with other kernels than single tokens:
// the recurrence, whatever the row begins and ends with and whatever is beside it.
#include <algorithm>
#include <climits>
#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/expect_near.h"
#include "tests/support/memory_sessions.h"

namespace evenflow {
namespace {

constexpr int kTokens = 200;

struct Case {
  MemoryShape shape;
  Window window;
  DType state_dtype = DType::kF32;
};

const Case kCases[] = {
    {{2, 2, 2, 2, 16, 24}, {16, 2}},
    {{2, 2, 2, 2, 17, 150}, {32, 5}},
    {{2, 2, 2, 2, 64, 64}, {16, 0}},
    {{6, 3, 1, 2, 64, 36}, {64, 2}},  // several states share a query, a key or a value
    {{2, 6, 2, 2, 16, 24}, {16, 2}},  // several queries share a state
    {{2, 2, 2, 2, 128, 128}, {16, 16}, DType::kBF16},
    {{1, 1, 1, 1, 256, 512}, {16, 2}},
    {{1, 1, 1, 1, 256, 200}, {32, 3}, DType::kBF16},
};

class MemoryPromptTest : public ::testing::TestWithParam<MemoryKind> {
 protected:
  void SetUp() override {
    if (const char* refused = DeviceRefusal(GetParam())) {
      GTEST_SKIP() << "not on this device: " << refused;
    }
  }

  // Calls check(setup) for each of the cases that the memory serves.
  template <class Check>
  static void ForCases(const Check& check) {
    for (const auto& [shape, window, state_dtype] : kCases) {
      for (const DType activations : {DType::kF32, DType::kBF16}) {
        if (activations == DType::kBF16 && DevicePromptTokens() == INT_MAX) {
          continue;  // nothing that makes use of it
        }
        MemorySetup setup = Fitted({GetParam(), shape, window, state_dtype});
        setup.activations = activations;
        // Each head of VLA has keys, queries and values of its own.
        const bool grouped = shape.key_heads < shape.heads || shape.query_heads != shape.heads;
        if (!setup.mode.has_value() || !grouped) {
          SCOPED_TRACE(testing::Message()
                       << shape.key_dim << "x" << shape.value_dim << " C " << setup.window.commit
                       << " " << Name(state_dtype) << ", operands " << Name(activations));
          check(setup);
        }
      }
    }
  }
};

// The norm of the difference, relative to the state's.
double StateError(const MemorySessions& sessions, int slot, const MemoryReference& reference) {
  const std::vector<float> stored = sessions.StoredState(slot);
  double error = 0, norm = 0;
  for (size_t i = 0; i < stored.size(); ++i) {
    error = std::hypot(error, static_cast<double>(stored[i]) - reference.states[i]);
    norm = std::hypot(norm, reference.states[i]);
  }
  return error / norm;
}

TEST_P(MemoryPromptTest, PiecesOfAnyLengthAreTheRecurrence) {
  ForCases([](const MemorySetup& setup) {
    const MemoryInputs inputs = RandomInputs(setup, kTokens, 30);
    const MemoryReference reference =
        RunReference(setup, inputs, static_cast<int>(setup.window.Stored(kTokens - 1)));
    MemorySessions sessions(setup, 2, 1);
    ExpectNear(setup, sessions.Run(0, inputs, 0, kTokens, kTokens), reference);
    std::mt19937 random(31);
    for (int at = 0; at < kTokens;) {
      const int end = std::min<int>(kTokens, at + 1 + static_cast<int>(random() % 60));
      ExpectNear(setup, sessions.Run(1, inputs, at, end, kTokens), reference, at);
      at = end;
    }
    // As ExpectNear has it.
    const bool rounds = setup.state_dtype == DType::kBF16 || setup.activations == DType::kBF16;
    EXPECT_LE(StateError(sessions, 0, reference), rounds ? 0.03 : 1e-5);
    EXPECT_LE(StateError(sessions, 1, reference), rounds ? 0.03 : 1e-5);
  });
}

// Some channels lose nearly all with one token, others little with many.
TEST_P(MemoryPromptTest, StrongDecaysAreTheRecurrence) {
  if (DecayOf(GetParam()) != Decay::kScalar && DecayOf(GetParam()) != Decay::kChannel) {
    GTEST_SKIP() << "its decays are no inputs";
  }
  ForCases([](const MemorySetup& setup) {
    MemoryInputs inputs = RandomInputs(setup, kTokens, 70);
    for (size_t i = 0; i < inputs.log_decay.size(); i += 7) {
      inputs.log_decay[i] *= i % 3 == 0 ? 100.0f : 30.0f;
    }
    const MemoryReference reference =
        RunReference(setup, inputs, static_cast<int>(setup.window.Stored(kTokens - 1)));
    MemorySessions sessions(setup, 1, 1);
    ExpectNear(setup, sessions.Run(0, inputs, 0, kTokens, kTokens), reference);
    const bool rounds = setup.state_dtype == DType::kBF16 || setup.activations == DType::kBF16;
    EXPECT_LE(StateError(sessions, 0, reference), rounds ? 0.03 : 1e-5);
  });
}

// Rows of different lengths in a step, some of one token: the bits of each as if it were alone.
TEST_P(MemoryPromptTest, CompanyChangesNoBit) {
  ForCases([](const MemorySetup& setup) {
    constexpr int kRows = 4;
    constexpr int kEnds[][kRows] = {{130, 77, 16, 1}, {131, 140, 48, 2}, {200, 141, 90, 100}};
    std::vector<MemoryInputs> inputs;
    for (uint32_t r = 0; r < kRows; ++r) {
      inputs.push_back(RandomInputs(setup, kTokens, 40 + r));
    }
    MemorySessions together(setup, kRows, 1);
    MemorySessions alone(setup, kRows, 1);
    int begins[kRows] = {};
    for (const auto& ends : kEnds) {
      std::vector<MemoryRow> rows;
      for (int r = 0; r < kRows; ++r) {
        rows.push_back({kRows - 1 - r, &inputs[static_cast<size_t>(r)], begins[r], ends[r]});
      }
      const auto outputs = together.Step(rows);
      for (int r = 0; r < kRows; ++r) {
        const MemoryRow& row = rows[static_cast<size_t>(r)];
        EXPECT_EQ(outputs[static_cast<size_t>(r)], alone.Step({row})[0]) << "row " << r;
        EXPECT_EQ(together.StoredState(row.slot), alone.StoredState(row.slot)) << "row " << r;
        const StateHealth& health = together.health()[static_cast<size_t>(r)];
        EXPECT_EQ(health.committed, alone.health()[0].committed);
        EXPECT_EQ(health.norm, alone.health()[0].norm);
        begins[r] = ends[r];
      }
    }
  });
}

// More rows than a warp has lanes, each elsewhere in its block of positions.
TEST_P(MemoryPromptTest, ManyRowsOutOfPhaseChangeNoBit) {
  ForCases([](const MemorySetup& setup) {
    constexpr int kRows = 70, kSteps = 18;
    const MemoryInputs inputs = RandomInputs(setup, kTokens, 60);
    MemorySessions together(setup, kRows, 1);
    MemorySessions alone(setup, kRows, 1);
    const auto rows = [&](int step) {
      std::vector<MemoryRow> all;
      for (int r = 0; r < kRows; ++r) {
        const int end = 1 + r * 7 % 40 + step;
        all.push_back({r, &inputs, step == 0 ? 0 : end - 1, end});
      }
      return all;
    };
    for (int step = 0; step < kSteps; ++step) {
      const auto outputs = together.Step(rows(step));
      for (const int r : {0, 31, 32, 69}) {
        EXPECT_EQ(outputs[static_cast<size_t>(r)],
                  alone.Step({rows(step)[static_cast<size_t>(r)]})[0])
            << "row " << r << ", step " << step;
        EXPECT_TRUE(step + 1 < kSteps || together.StoredState(r) == alone.StoredState(r))
            << "row " << r;
      }
    }
  });
}

// The newest tokens of a long row are taken back, and the next long row has others in their place.
TEST_P(MemoryPromptTest, WhatIsTakenBackLeavesNoTrace) {
  ForCases([](const MemorySetup& setup) {
    const MemoryInputs inputs = RandomInputs(setup, kTokens, 50);
    const MemoryInputs rejected = RandomInputs(setup, kTokens, 51);
    MemorySessions sessions(setup, 2, 1);
    int at = 0;
    for (const int kept : {30, 63, 64, 66, 111, 160}) {
      const int drafted = kept + setup.window.rollback;
      const MemoryInputs drafts = Splice(setup, inputs, kept, rejected);
      const auto expected = sessions.Run(0, inputs, at, kept, kTokens);
      auto got = sessions.Run(1, drafts, at, drafted, kTokens);
      got.resize(expected.size());
      if (drafted - at < DevicePromptTokens()) {
        EXPECT_EQ(got, expected) << "up to " << kept;
      }
      at = kept;
    }
    const MemoryReference reference = RunReference(setup, inputs, 0);
    ExpectNear(setup, sessions.Run(1, inputs, at, kTokens, kTokens), reference, at);
  });
}

TEST_P(MemoryPromptTest, HealthIsThatOfTheStoredState) {
  ForCases([](const MemorySetup& setup) {
    const MemoryInputs inputs = RandomInputs(setup, kTokens, 60);
    MemorySessions sessions(setup, 1, 1);
    sessions.Run(0, inputs, 0, kTokens, kTokens);
    const StateHealth health = sessions.health()[0];
    double square = 0;
    float max_abs = 0;
    for (const float s : sessions.StoredState(0)) {
      square += static_cast<double>(s) * static_cast<double>(s);
      max_abs = std::max(max_abs, std::abs(s));
    }
    EXPECT_TRUE(health.committed);
    // Sums over a part of the elements are in fp32.
    EXPECT_NEAR(health.norm, std::sqrt(square), 1e-5 * std::sqrt(square));
    EXPECT_EQ(health.max_abs, max_abs);
    EXPECT_EQ(health.non_finite, 0);
  });
}

INSTANTIATE_TEST_SUITE_P(, MemoryPromptTest, ::testing::ValuesIn(kMemoryKinds),
                         [](const auto& tested) { return Name(tested.param); });

}  // namespace
}  // namespace evenflow
