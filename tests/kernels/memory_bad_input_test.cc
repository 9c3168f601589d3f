// A number that is not one, in whatever a token brings to its state, is seen in the state's health
// for good: the engine ends the session by it.
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/memory_sessions.h"

namespace evenflow {
namespace {

constexpr int kTokens = 100;
constexpr int kKeyDim = 17;  // not a multiple of a vector: channels left over are seen as well
constexpr int kValueDim = 24;

struct BadInput {
  const char* name;
  std::vector<float> MemoryInputs::*input;
};

// What reaches the state of a memory; queries and level weights only read.
std::vector<BadInput> InputsOfState(const MemorySetup& setup) {
  std::vector<BadInput> inputs = {{"k", &MemoryInputs::k}, {"v", &MemoryInputs::v}};
  const Decay decay = DecayOf(setup.memory);
  if (decay == Decay::kScalar || decay == Decay::kChannel) {
    inputs.push_back({"log decay", &MemoryInputs::log_decay});
  }
  if (HasBeta(setup.memory)) {
    inputs.push_back({"beta", &MemoryInputs::beta});
  }
  if (!setup.mode.has_value() && OwnKeyCount(setup.memory) > 0) {
    inputs.push_back({"e", &MemoryInputs::e});
  }
  return inputs;
}

class MemoryBadInputTest : public ::testing::TestWithParam<MemoryKind> {};

TEST_P(MemoryBadInputTest, IsSeenInTheHealthForGood) {
  // Within a block, and the one that begins it.
  for (const int bad_token : {5, 32}) {
    for (const int chunk : {1, 25}) {
      const MemorySetup setup = Fitted({GetParam(), PlainShape(1, kKeyDim, kValueDim), {16, 2}});
      for (const auto& [name, input] : InputsOfState(setup)) {
        SCOPED_TRACE(testing::Message()
                     << name << " of token " << bad_token << ", chunk " << chunk);
        MemoryInputs inputs = RandomInputs(setup, kTokens, 1);
        const size_t token_size = (inputs.*input).size() / kTokens;
        // Its first element, and its last.
        for (const size_t element : {size_t{0}, token_size - 1}) {
          MemoryInputs bad = inputs;
          (bad.*input)[static_cast<size_t>(bad_token) * token_size + element] = std::nanf("");
          MemorySessions sessions(setup, 1, 1);
          int commits = 0;
          for (int t = 0; t < kTokens; t += chunk) {
            sessions.Run(0, bad, t, t + chunk, chunk);
            const StateHealth& health = sessions.health()[0];
            if (health.committed) {
              const bool holds_it = setup.window.Stored(t + chunk - 1) > bad_token;
              EXPECT_EQ(health.non_finite > 0, holds_it) << "after token " << t + chunk - 1;
              commits += holds_it ? 1 : 0;
            }
          }
          EXPECT_GE(commits, 2);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, MemoryBadInputTest, ::testing::ValuesIn(kMemoryKinds),
                         [](const auto& tested) { return Name(tested.param); });

}  // namespace
}  // namespace evenflow
