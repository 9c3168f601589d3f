#include "engine/model/config.h"

#include <limits>

#include "gmock/gmock.h"

namespace evenflow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Config Parsed(const std::string& text) {
  absl::StatusOr<Config> config = Config::Parse(text, "config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  return *std::move(config);
}

TEST(ConfigTest, ReadsValuesAndFallbacks) {
  Config config = Parsed(R"({"i": 3, "whole": 4.0, "f": 2, "b": true, "t": "relu", "n": null})");
  EXPECT_EQ(config.Int("i", 1), 3);
  EXPECT_EQ(config.Int("whole", 1), 4);
  EXPECT_EQ(config.Int("n", 7), 7);
  EXPECT_EQ(config.Int("absent", 8), 8);
  EXPECT_EQ(config.Float("f", 0, 0, 10), 2);
  EXPECT_TRUE(config.Bool("b", false));
  EXPECT_TRUE(config.Bool("n", true));
  EXPECT_EQ(config.Text("t", "silu", {"relu", "silu"}), "relu");
  EXPECT_EQ(config.Text("n", "silu", {"relu", "silu"}), "silu");
  EXPECT_TRUE(config.status().ok()) << config.status();
}

TEST(ConfigTest, ReadsInfinityHoweverSpelt) {
  const double infinity = std::numeric_limits<double>::infinity();
  Config config = Parsed(R"({"bare": Infinity, "object": {"__float__": "Infinity"}})");
  EXPECT_EQ(config.Float("bare", 0, 0, infinity), infinity);
  EXPECT_EQ(config.Float("object", 0, 0, infinity), infinity);
  EXPECT_TRUE(config.status().ok()) << config.status();
}

TEST(ConfigTest, TellsWhatWasRead) {
  Config config = Parsed(R"({"i": 3, "t": "relu", "old": 5, "unused": 1,
                             "limits": [0, {"__float__": "Infinity"}]})");
  config.Int("i", 1);
  config.Bool("absent", true);
  config.Text("t", "silu", {"relu", "silu"});
  config.Text("none", "", {"relu"});
  config.Int(config.NameOf("new", "old"), 1);
  config.Floats("limits", {0, 1}, 0, std::numeric_limits<double>::infinity());
  EXPECT_EQ(config.NameOf("i", "old"), "i");
  EXPECT_EQ(config.NameOf("neither", "nor"), "neither");
  EXPECT_EQ(config.read(), nlohmann::json::parse(R"({"i": 3, "absent": true, "t": "relu",
      "none": null, "old": 5, "limits": [0.0, "Infinity"]})"));
}

TEST(ConfigTest, ReadsIntegersOfLayers) {
  Config config = Parsed(R"({"one": 5, "list": [6, 7], "none": null, "short": [6]})");
  EXPECT_EQ(config.LayerInt("one", 1, 2, 3), 5);
  EXPECT_EQ(config.LayerInt("list", 1, 2, 3), 7);
  EXPECT_EQ(config.LayerInt("none", 1, 2, 3), 3);
  EXPECT_TRUE(config.status().ok()) << config.status();
  config.LayerInt("short", 0, 2, 3);
  EXPECT_THAT(std::string(config.status().message()),
              HasSubstr("short is [6]; allowed: an integer from 1 to 16777216, or a list of one"));
}

TEST(ConfigTest, ReadsTokenLists) {
  Config config = Parsed(R"({"one": 5, "two": [6, 7], "none": null})");
  EXPECT_THAT(config.Tokens("one", {2}), ElementsAre(5));
  EXPECT_THAT(config.Tokens("two", {2}), ElementsAre(6, 7));
  EXPECT_THAT(config.Tokens("none", {2}), IsEmpty());
  EXPECT_THAT(config.Tokens("absent", {2}), ElementsAre(2));
  EXPECT_TRUE(config.status().ok()) << config.status();
}

TEST(ConfigTest, ReadsObjectsAndListsOfThem) {
  Config config = Parsed(R"({"one": {"n": 1, "l": [0, 3]}, "two": [{"n": 2}, {"n": 30}],
                             "none": null, "empty": []})");
  std::vector<Config> one = config.Objects("one");
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].Int("n", 0), 1);
  EXPECT_THAT(one[0].Ints("l", 0, 3), ElementsAre(0, 3));
  EXPECT_THAT(config.Objects("none"), IsEmpty());
  EXPECT_THAT(config.Objects("absent"), IsEmpty());
  EXPECT_THAT(config.Objects("empty"), IsEmpty());
  std::vector<Config> two = config.Objects("two");
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].Int("n", 0, 0, 9), 2);
  EXPECT_EQ(two[1].Int("n", 0, 0, 9), 0);
  EXPECT_TRUE(config.status().ok()) << config.status();
  config.Update(two[0].status());
  config.Update(two[1].status());
  EXPECT_EQ(config.status().message(),
            "config.json: two[1]: n is 30; allowed: an integer from 0 to 9");
}

// The first error stays, and names file, field, value and what is allowed.
TEST(ConfigTest, NamesFieldValueAndWhatIsAllowed) {
  const auto error = [](const std::string& value, auto read) {
    Config config = Parsed(R"({"x": )" + value + "}");
    read(config);
    return std::string(config.status().message());
  };
  const auto as_int = [](Config& c) { c.Int("x", 1, 1, 8); };
  EXPECT_EQ(error("9", as_int), "config.json: x is 9; allowed: an integer from 1 to 8");
  EXPECT_THAT(error("2.5", as_int), HasSubstr("x is 2.5"));
  EXPECT_THAT(error("\"3\"", as_int), HasSubstr("x is \"3\""));
  EXPECT_THAT(error("NaN", as_int), HasSubstr("an integer"));
  EXPECT_THAT(error("1e300", as_int), HasSubstr("an integer"));
  EXPECT_THAT(error("-1", [](Config& c) { c.Float("x", 1, 0, 8); }),
              HasSubstr("x is -1; allowed: a number from 0 to 8"));
  for (const char* list :
       {"3", "[1]", "[0, -1]", "[0, 1, 2]", "[0, \"1\"]", "{\"a\": 1, \"b\": 2}"}) {
    EXPECT_THAT(error(list,
                      [](Config& c) {
                        c.Floats("x", {0, 1}, 0, 8);
                      }),
                HasSubstr("allowed: a list of 2 numbers from 0 to 8"));
  }
  for (const char* list : {"3", "[-1]", "[9]", "[0.5]", "[\"1\"]", "{\"a\": 1}", "null"}) {
    EXPECT_THAT(error(list, [](Config& c) { c.Ints("x", 0, 8); }),
                HasSubstr("allowed: a list of integers from 0 to 8"));
  }
  for (const char* objects : {"3", "[3]", "[{}, null]", "\"a\"", "true"}) {
    EXPECT_THAT(error(objects, [](Config& c) { c.Objects("x"); }),
                HasSubstr("allowed: an object, a list of objects, null"));
  }
  EXPECT_THAT(error("1", [](Config& c) { c.Bool("x", true); }), HasSubstr("allowed: true, false"));
  EXPECT_THAT(error("\"tanh\"",
                    [](Config& c) {
                      c.Text("x", "relu", {"relu", "silu"});
                    }),
              HasSubstr("x is \"tanh\"; allowed: \"relu\", \"silu\""));
  EXPECT_THAT(error("[1, -2]", [](Config& c) { c.Tokens("x", {}); }), HasSubstr("x is [1,-2]"));
  EXPECT_THAT(error("{}", [](Config& c) { c.Refuse("x", "is not supported"); }),
              HasSubstr("x is {}; is not supported"));
  EXPECT_EQ(error("false", [](Config& c) { c.Refuse("x", "is not supported"); }), "");
}

TEST(ConfigTest, RefusesWhatIsNoObject) {
  EXPECT_THAT(std::string(Config::Parse("[]", "c").status().message()),
              HasSubstr("c: must be a JSON object"));
  EXPECT_THAT(std::string(Config::Parse(R"({"a":1,"a":2})", "c").status().message()),
              HasSubstr("duplicate key"));
  EXPECT_FALSE(Config::Parse("", "c").ok());
}

}  // namespace
}  // namespace evenflow
