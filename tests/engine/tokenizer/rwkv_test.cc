// The vocabulary files of RWKV's World models: equality with RWKV's own tokenizer, whose answers
// make_rwkv_goldens.py has written down, and what is no such file.
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/json.h"
#include "engine/tokenizer/rwkv_vocabulary.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/utf8.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace evenflow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string GoldenPath(const std::string& name) {
  return std::string(EVENFLOW_SOURCE_DIR) + "/tests/engine/tokenizer/goldens/" + name;
}

std::string ReadGolden(const std::string& name) {
  std::ifstream file(GoldenPath(name), std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

nlohmann::json ReadCases(const std::string& name) {
  absl::StatusOr<nlohmann::json> json = ParseJson(ReadGolden(name));
  EXPECT_TRUE(json.ok()) << json.status();
  return json.ok() ? *std::move(json) : nlohmann::json::array();
}

// Each byte as a token of its own, id byte + 1, as the files write them.
std::string Bytes() {
  std::string file;
  for (int byte = 0; byte < 256; ++byte) {
    absl::StrAppend(&file, byte + 1, " b'\\x", absl::Hex(byte, absl::kZeroPad2), "' 1\n");
  }
  return file;
}

std::string Error(const std::string& file) {
  const auto tokenizer = Tokenizer::FromRwkvVocabulary(file);
  return std::string(tokenizer.status().message());
}

class RwkvGoldenTest : public testing::Test {
 protected:
  void SetUp() override {
    auto loaded = Tokenizer::FromFile(GoldenPath("rwkv_vocab.txt"));
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = *std::move(loaded);
  }

  std::string Stream(const std::vector<int32_t>& ids) const {
    IncrementalDecoder decoder(*tokenizer_, /*at_start=*/true, /*skip_special=*/true);
    std::string text;
    for (const int32_t id : ids) {
      const std::string piece = decoder.Push(id);
      EXPECT_EQ(ValidUtf8Prefix(piece), piece.size()) << "half a character";
      text += piece;
    }
    return text + decoder.Flush();
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(RwkvGoldenTest, EncodesTextsAsRwkvDoes) {
  const nlohmann::json texts = ReadCases("strings.json");
  std::istringstream lines(ReadGolden("rwkv.ids"));
  ASSERT_GE(texts.size(), 1000u);
  for (const nlohmann::json& text : texts) {
    std::string line;
    ASSERT_TRUE(std::getline(lines, line));
    std::istringstream numbers(line);
    std::vector<int32_t> expected;
    for (int32_t id = 0; numbers >> id;) {
      expected.push_back(id);
    }
    const auto ids = tokenizer_->Encode(text.get<std::string>());
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, expected) << text;
    EXPECT_EQ(*tokenizer_->Decode(*ids, /*skip_special=*/false), text);
    EXPECT_EQ(Stream(*ids), text);
  }
}

TEST_F(RwkvGoldenTest, EncodesBytesAsRwkvDoes) {
  const auto vocabulary = RwkvVocabulary::Parse(ReadGolden("rwkv_vocab.txt"));
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  const nlohmann::json cases = ReadCases("rwkv.bytes.json");
  ASSERT_GE(cases.size(), 400u);
  for (const nlohmann::json& one : cases) {
    std::vector<int32_t> ids;
    vocabulary->Encode(std::string(absl::HexStringToBytes(one[0].get<std::string>())), &ids);
    EXPECT_EQ(ids, one[1]) << one[0];
  }
}

TEST_F(RwkvGoldenTest, DecodesAsRwkvDoes) {
  const nlohmann::json cases = ReadCases("rwkv.decoded.json");
  ASSERT_GE(cases.size(), 400u);
  for (const nlohmann::json& one : cases) {
    const auto ids = one[0].get<std::vector<int32_t>>();
    EXPECT_EQ(*tokenizer_->Decode(ids, /*skip_special=*/true), one[1]) << one[0];
    EXPECT_EQ(Stream(ids), one[1]) << one[0];
  }
}

TEST_F(RwkvGoldenTest, TokenZeroEndsTexts) {
  const std::string end(RwkvVocabulary::kEndOfText);
  EXPECT_EQ(tokenizer_->TokenToId(end), 0);
  EXPECT_TRUE(tokenizer_->IsSpecial(0));
  EXPECT_EQ(tokenizer_->Encode(end + "A")->front(), 0);
  EXPECT_EQ(tokenizer_->Encode(end + "A")->size(), 2u);
  const std::vector<int32_t> plain = *tokenizer_->Encode(end, {.parse_special = false});
  EXPECT_GT(plain.size(), 1u);
  EXPECT_EQ(*tokenizer_->Decode(plain, true), end);
  EXPECT_EQ(*tokenizer_->Decode({66, 0, 67}, /*skip_special=*/true), "AB");
  EXPECT_EQ(*tokenizer_->Decode({66, 0, 67}, /*skip_special=*/false), "A" + end + "B");
  EXPECT_TRUE(tokenizer_->Encode("")->empty());
}

TEST_F(RwkvGoldenTest, IdsInGapsAddNothing) {
  int32_t gap = 1;
  while (!tokenizer_->IdToToken(gap).empty()) {
    ++gap;
  }
  ASSERT_LT(gap, tokenizer_->vocab_size());
  EXPECT_EQ(*tokenizer_->Decode({66, gap, 67}, true), "AB");
  EXPECT_EQ(Stream({66, gap, 67, 1 << 20, -1}), "AB");
  EXPECT_FALSE(tokenizer_->Decode({tokenizer_->vocab_size()}, true).ok());
}

// Every form of literal, and greed: the longest match wins, also where a shorter one would let more
// match afterwards.
TEST(RwkvVocabularyTest, ReadsLiterals) {
  const std::string file =
      Bytes() +
      "300 'ab' 2\n301 \"b'c\" 3\n302 '\\'\"' 2\n303 '\\\\n' 2\n"
      "304 '\\n\\r\\t' 3\n305 '\\xe9' 2\n306 b'\\xe9\\x80' 2\n307 'é ü' 5\n"
      "308 '\\u20ac' 3\n309 '\\U0001f600' 4\n310 b\"'\\\\\" 2\n\n311 'cd' 2\r\n";
  const auto vocabulary = RwkvVocabulary::Parse(file);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  const TokenTable& tokens = vocabulary->vocabulary().tokens();
  const std::vector<std::string> expected = {"ab",           "b'c",
                                             "'\"",          "\\n",
                                             "\n\r\t",       "\xC3\xA9",
                                             "\xE9\x80",     "\xC3\xA9 \xC3\xBC",
                                             "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
                                             "'\\",          "cd"};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(tokens.Token(static_cast<int32_t>(300 + i)), expected[i]) << i;
  }
  std::vector<int32_t> ids;
  vocabulary->Encode("ab'cd\xE9\x80", &ids);
  EXPECT_THAT(ids, ElementsAre(300, '\'' + 1, 311, 306));
}

TEST(RwkvVocabularyTest, NamesTheLineThatIsWrong) {
  const auto error = [](const std::string& line) { return Error(Bytes() + line); };
  EXPECT_EQ(error("300 'ab' 2"), "");
  for (const char* line : {"300", "300 'ab'", "'ab' 2", "x 'ab' 2", "-1 'ab' 2", "300 'ab' 2 ",
                           "300 'ab' x", "99999999999999999999 'ab' 2", "300 'ab' -2"}) {
    EXPECT_EQ(error(line), "line 257: an id, a token and its length in bytes are expected") << line;
  }
  EXPECT_THAT(error("0 'ab' 2"), HasSubstr("line 257: id 0 stands for the end of a text"));
  EXPECT_THAT(error("300 'ab' 3"), HasSubstr("the token has 2 bytes; its line says 3"));
  EXPECT_THAT(error("300 '' 0"), HasSubstr("the token has 0 bytes; allowed: 1 to 1024"));
  EXPECT_THAT(error("300 '" + std::string(1025, 'a') + "' 1025"), HasSubstr("has 1025 bytes"));
  EXPECT_THAT(error("300 'ab' 2\n300 'cd' 2"),
              HasSubstr("line 258: token \"cd\" has id 300, which \"ab\" has already"));
  EXPECT_THAT(error("300 'ab' 2\n301 b'ab' 2"),
              HasSubstr("token \"ab\" has id 301, and another one besides"));
  EXPECT_THAT(error("4194304 'ab' 2"), HasSubstr("which is outside 0 to 4194303"));
  EXPECT_THAT(error("300 '<|rwkv_tokenizer_end_of_text|>' 30"), HasSubstr("another one besides"));
}

TEST(RwkvVocabularyTest, RefusesOtherLiterals) {
  for (const char* literal : {"ab",
                              "u'ab'",
                              "'ab",
                              "ab'",
                              "'a'b'",
                              "'ab\"",
                              "'a' 'b'",
                              "'a'+'b'",
                              "B'a'",
                              "r'a'",
                              "('a')",
                              "'\\",
                              "'\\'",
                              "'\\q'",
                              "'\\N{DASH}'",
                              "'\\101'",
                              "b'\\u0041'",
                              "'\\x4'",
                              "'\\xg0'",
                              "'\\x-1'",
                              "'\\ud800'",
                              "'\\U00110000'",
                              "'\\uab'",
                              "b'\xC3\xA9'",
                              "'\xC3'",
                              "'\xFF'",
                              "'\x01'",
                              "'\t'",
                              "__import__('os')",
                              "'",
                              "b",
                              "b'",
                              "'''a'''"}) {
    EXPECT_THAT(Error(Bytes() + "300 " + literal + " 2"),
                HasSubstr("line 257: the token is no literal of Python: "))
        << literal;
  }
}

TEST(RwkvVocabularyTest, NeedsEveryByte) {
  EXPECT_EQ(Error(""), "byte 0x00 is no token; a vocabulary of RWKV has each of the 256 bytes");
  std::string file = Bytes();
  file.resize(file.rfind("256 b'"));
  EXPECT_THAT(Error(file), HasSubstr("byte 0xff is no token"));
}

TEST(TokenizerDirectoryTest, TakesTheFirstFileThereIs) {
  const std::string directory = testing::TempDir() + "/rwkv_tokenizer_directory";
  std::filesystem::remove_all(directory);
  std::filesystem::create_directory(directory);
  const auto missing = Tokenizer::FromDirectory(directory).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()),
              HasSubstr("has none of tokenizer.json, rwkv_vocab_v20230424.txt, rwkv_vocab.txt"));
  std::ofstream(directory + "/rwkv_vocab.txt") << Bytes();
  EXPECT_EQ((*Tokenizer::FromDirectory(directory))->vocab_size(), 257);
  std::ofstream(directory + "/rwkv_vocab_v20230424.txt") << Bytes() << "300 'ab' 2\n";
  EXPECT_EQ((*Tokenizer::FromDirectory(directory))->vocab_size(), 301);
  std::ofstream(directory + "/tokenizer.json") << "{}";
  EXPECT_THAT(std::string(Tokenizer::FromDirectory(directory).status().message()),
              HasSubstr("tokenizer.json: "));
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace evenflow
