// Equality with Hugging Face's tokenizers library, whose answers make_goldens.py has written down.
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/json.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/utf8.h"

namespace evenflow {
namespace {

std::string GoldenPath(const std::string& name) {
  return std::string(EVENFLOW_SOURCE_DIR) + "/tests/engine/tokenizer/goldens/" + name;
}

std::string ReadGolden(const std::string& name) {
  std::ifstream file(GoldenPath(name), std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

std::vector<std::string> Texts() {
  auto json = ParseJson(ReadGolden("strings.json"));
  return json.ok() ? json->get<std::vector<std::string>>() : std::vector<std::string>();
}

class GoldenTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto loaded = Tokenizer::FromFile(GoldenPath(std::string(GetParam()) + ".tokenizer.json"));
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = *std::move(loaded);
  }

  std::vector<std::vector<int32_t>> ExpectedIds() const {
    std::istringstream lines(ReadGolden(std::string(GetParam()) + ".ids"));
    std::vector<std::vector<int32_t>> all;
    for (std::string line; std::getline(lines, line);) {
      std::istringstream numbers(line);
      std::vector<int32_t>& ids = all.emplace_back();
      for (int32_t id = 0; numbers >> id;) {
        ids.push_back(id);
      }
    }
    return all;
  }

  std::string Stream(const std::vector<int32_t>& ids, bool skip_special) const {
    IncrementalDecoder decoder(*tokenizer_, /*at_start=*/true, skip_special);
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

TEST_P(GoldenTest, EncodesLikeHuggingFace) {
  const std::vector<std::string> texts = Texts();
  const auto expected = ExpectedIds();
  ASSERT_GE(texts.size(), 1000U);
  ASSERT_EQ(texts.size(), expected.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto ids = tokenizer_->Encode(texts[i]);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, expected[i]) << "text " << i << ": " << texts[i].substr(0, 300);
  }
}

TEST_P(GoldenTest, DecodesLikeHuggingFace) {
  const auto cases = ParseJson(ReadGolden(std::string(GetParam()) + ".decoded.json"));
  ASSERT_TRUE(cases.ok()) << cases.status();
  ASSERT_GE(cases->size(), 300U);
  for (const nlohmann::json& one : *cases) {
    const auto ids = one[0].get<std::vector<int32_t>>();
    EXPECT_EQ(*tokenizer_->Decode(ids, /*skip_special=*/true), one[1]) << one[0];
    EXPECT_EQ(*tokenizer_->Decode(ids, /*skip_special=*/false), one[2]) << one[0];
  }
}

TEST_P(GoldenTest, StreamsWhatItDecodes) {
  for (const std::vector<int32_t>& ids : ExpectedIds()) {
    for (const bool skip_special : {true, false}) {
      EXPECT_EQ(Stream(ids, skip_special), *tokenizer_->Decode(ids, skip_special));
    }
  }
  // Ids in any order: characters break off and bytes do not fit. Ill-formed runs of byte tokens may
  // differ from Decode, which replaces them as a whole.
  const auto cases = ParseJson(ReadGolden(std::string(GetParam()) + ".decoded.json"));
  ASSERT_TRUE(cases.ok()) << cases.status();
  for (const nlohmann::json& one : *cases) {
    const std::string streamed = Stream(one[0].get<std::vector<int32_t>>(), true);
    const std::string whole = one[1].get<std::string>();
    if (tokenizer_->TokenToId("<0x0A>") && whole.find(kReplacementCharacter) != whole.npos) {
      EXPECT_NE(streamed.find(kReplacementCharacter), streamed.npos) << one[0];
    } else {
      EXPECT_EQ(streamed, whole) << one[0];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, GoldenTest,
                         ::testing::Values("gpt2", "llama3", "qwen2", "llama2", "mistral",
                                           "metaspace", "mixed"),
                         [](const auto& param) { return std::string(param.param); });

}  // namespace
}  // namespace evenflow
