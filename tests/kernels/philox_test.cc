// Philox against the known answers that its authors publish.
#include "kernels/math/philox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace evenflow {
namespace {

using ::testing::ElementsAre;

TEST(PhiloxTest, MatchesTheKnownAnswersOfRandom123) {
  const PhiloxWords zeros = Philox4x32({{0, 0, 0, 0}}, 0, 0);
  EXPECT_THAT(zeros.word, ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  const uint32_t f = 0xffffffffu;
  const PhiloxWords ones = Philox4x32({{f, f, f, f}}, f, f);
  EXPECT_THAT(ones.word, ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  const PhiloxWords pi =
      Philox4x32({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0xa4093822u, 0x299f31d0u);
  EXPECT_THAT(pi.word, ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
}

TEST(PhiloxTest, UniformsStayBelowOneAndDependOnSeedAndPosition) {
  double sum = 0;
  for (int64_t position = 0; position < 10000; ++position) {
    const double u = UniformAt(7, position);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
  }
  // Standard deviation of the mean: sqrt(1 / 12 / 10000) = 0.0029; five of these.
  EXPECT_NEAR(sum / 10000, 0.5, 0.0145);
  EXPECT_NE(UniformAt(7, 1), UniformAt(8, 1));
  EXPECT_NE(UniformAt(7, 1), UniformAt(7, 1 + (int64_t{1} << 32)));
  EXPECT_NE(UniformAt(7, 1), UniformAt(7 + (uint64_t{1} << 32), 1));
}

}  // namespace
}  // namespace evenflow
