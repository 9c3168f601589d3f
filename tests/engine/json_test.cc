#include "engine/json.h"

#include <cmath>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace evenflow {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(std::string_view text, const JsonLimits& limits = {}) {
  const auto parsed = ParseJson(text, limits);
  return parsed.ok() ? "accepted: " + parsed->dump() : std::string(parsed.status().message());
}

TEST(ParseJsonTest, ReadsEveryKindOfValue) {
  const auto parsed =
      ParseJson(R"( {"a": [1, -2, 2.5, true, null, "x\u00e9\n"], "b": {"c": {}}, "d": []} )");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->dump(),
            "{\"a\":[1,-2,2.5,true,null,\"x\xC3\xA9\\n\"],\"b\":{\"c\":{}},\"d\":[]}");
  EXPECT_EQ(ParseJson("7")->get<int>(), 7);
}

TEST(ParseJsonTest, NamesADuplicateKey) {
  EXPECT_THAT(ErrorOf(R"({"x": {"same": 1, "same": 2}})"), HasSubstr("duplicate key \"same\""));
  EXPECT_THAT(ErrorOf(R"({"\u0061": 1, "a": 2})"), HasSubstr("duplicate key \"a\""));
  EXPECT_TRUE(ParseJson(R"([{"a": 1}, {"a": 2}, {"b": {"a": 1}, "a": 1}])").ok());
}

TEST(ParseJsonTest, RefusesWhatIsNotJson) {
  for (const char* text :
       {"", " ", "{", "[1,", "{} {}", "{'a': 1}", "[01]", "[1e999]", "\"\\ud800\"", "nul", "[1,]",
        "{\"a\" 1}", "\"\n\"", "Infinity", "[NaN]"}) {
    EXPECT_THAT(ErrorOf(text), HasSubstr("JSON: ")) << text;
  }
  EXPECT_THAT(ErrorOf("[1, x]"), HasSubstr("byte 5"));
}

TEST(ParseJsonTest, RefusesInvalidUtf8AndNul) {
  EXPECT_THAT(ErrorOf("[\"ab\xC3\"]"), HasSubstr("invalid UTF-8 at byte 4"));
  EXPECT_THAT(ErrorOf("[\"\xED\xA0\x80\"]"), HasSubstr("invalid UTF-8 at byte 2"));
  EXPECT_THAT(ErrorOf("[\"\xC0\x80\"]"), HasSubstr("invalid UTF-8 at byte 2"));
  EXPECT_THAT(ErrorOf(std::string("{}\0x", 4)), HasSubstr("NUL at byte 2"));
}

TEST(ParseJsonTest, KeepsItsLimits) {
  JsonLimits limits;
  limits.max_depth = 3;
  EXPECT_TRUE(ParseJson("[[{}]]", limits).ok());
  EXPECT_THAT(ErrorOf("[[{\"a\":[]}]]", limits), HasSubstr("nested deeper than 3"));
  limits = {.max_elements = 4};
  EXPECT_TRUE(ParseJson("[1,2,3]", limits).ok());
  EXPECT_THAT(ErrorOf("[1,2,3,4]", limits), HasSubstr("more than 4 values"));
  limits = {.max_bytes = 4};
  EXPECT_TRUE(ParseJson("[12]", limits).ok());
  EXPECT_THAT(ErrorOf("[123]", limits), HasSubstr("at most 4 are allowed"));
  EXPECT_THAT(ErrorOf(std::string(1 << 20, '[')), HasSubstr("nested deeper than 64"));
}

TEST(ParseJsonTest, ReadsBareNonFiniteNumbersWhenAllowed) {
  const JsonLimits limits{.allow_non_finite = true};
  const auto parsed = ParseJson(
      R"({"Infinity": [0.0, Infinity], "a\"NaN": -Infinity, "n": NaN, "s": "Infinity", "t": "NaN\\"})",
      limits);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->at("Infinity")[1].get<double>(), INFINITY);
  EXPECT_EQ(parsed->at("a\"NaN").get<double>(), -INFINITY);
  EXPECT_TRUE(std::isnan(parsed->at("n").get<double>()));
  EXPECT_EQ(parsed->at("s"), "Infinity");
  EXPECT_EQ(parsed->at("t"), "NaN\\");
  EXPECT_EQ(ParseJson("NaN", limits)->is_number_float(), true);
  for (const char* text : {"{Infinity: 1}", "[1Infinity]", "[--Infinity]", "[NaNNaN]", "[Infinit]",
                           "[\"\\", "[\"Infinity", "[+Infinity]"}) {
    EXPECT_THAT(ErrorOf(text, limits), HasSubstr("JSON: ")) << text;
  }
}

}  // namespace
}  // namespace evenflow
