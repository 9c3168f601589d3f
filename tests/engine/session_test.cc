// Token histories, ids and the table of sessions.
#include "engine/session.h"

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace evenflow {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

TEST(TokenHistory, IsARingByAbsolutePosition) {
  TokenHistory history(5);
  EXPECT_EQ(history.ring(), nullptr);
  for (int32_t token = 100; token < 113; ++token) {
    history.Append(token);
    EXPECT_EQ(history.newest(), token);
  }
  EXPECT_EQ(history.position(), 13);
  for (int64_t position = 8; position < 13; ++position) {
    EXPECT_EQ(history.ring()[position % 5], 100 + position);
  }
  TokenHistory copy = history;
  copy.Append(1);
  EXPECT_EQ(history.newest(), 112) << "a copy is a checkpoint";
}

TEST(SessionId, ClientsIds) {
  for (const std::string& good :
       {std::string("a"), std::string("A-b_c.9"), std::string(128, 'x')}) {
    EXPECT_TRUE(ValidateSessionId(good).ok()) << good;
  }
  for (const std::string& bad :
       {std::string(), std::string(129, 'x'), std::string("a b"), std::string("a/b"),
        std::string("\xc3\xa4"), std::string("a\0b", 3)}) {
    EXPECT_EQ(ValidateSessionId(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_THAT(std::string(ValidateSessionId("").message()), HasSubstr("1 to 128"));
}

TEST(SessionId, RandomOnesAre128Bits) {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = RandomSessionId();
    EXPECT_EQ(id.size(), 32u);
    EXPECT_EQ(id.find_first_not_of("0123456789abcdef"), std::string::npos) << id;
    ids.insert(id);
  }
  EXPECT_EQ(ids.size(), 1000u);
}

std::shared_ptr<Session> Make(const std::string& id, SteadyTime expires) {
  auto session = std::make_shared<Session>(id, milliseconds(10), 4);
  session->expires = expires;
  return session;
}

TEST(SessionTable, ListsInOrderExpiresAndLimits) {
  const SteadyTime start{};
  SessionTable table(3);
  ASSERT_TRUE(table.Insert(Make("c", start + milliseconds(30))).ok());
  ASSERT_TRUE(table.Insert(Make("a", start + milliseconds(10))).ok());
  EXPECT_EQ(table.Insert(Make("a", start)).code(), absl::StatusCode::kAlreadyExists);
  ASSERT_TRUE(table.Insert(Make("b", start + milliseconds(20))).ok());
  EXPECT_EQ(table.Insert(Make("d", start)).code(), absl::StatusCode::kResourceExhausted);
  const auto page = table.List("a", 10);
  ASSERT_EQ(page.size(), 2u);
  EXPECT_EQ(page[0]->id, "b");
  EXPECT_EQ(page[1]->id, "c");
  EXPECT_EQ(table.List("", 1)[0]->id, "a");

  table.Find("a")->leased = true;
  EXPECT_EQ(table.NextExpiry(), start + milliseconds(20)) << "a leased session does not expire";
  const auto expired = table.TakeExpired(start + milliseconds(20));
  ASSERT_EQ(expired.size(), 1u);
  EXPECT_EQ(expired[0]->id, "b");
  EXPECT_EQ(table.Find("b"), nullptr);
  EXPECT_NE(table.Find("a"), nullptr);
  table.Find("c")->quarantined.store(true);
  EXPECT_EQ(table.quarantined(), 1);
}

}  // namespace
}  // namespace evenflow
