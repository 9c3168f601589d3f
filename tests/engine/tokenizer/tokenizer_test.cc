#include "engine/tokenizer/tokenizer.h"

#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/json.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/regex.h"
#include "engine/utf8.h"

#include "absl/status/status.h"

namespace evenflow {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

std::string GoldenPath(const std::string& kind) {
  return std::string(EVENFLOW_SOURCE_DIR) + "/tests/engine/tokenizer/goldens/" + kind +
         ".tokenizer.json";
}

std::unique_ptr<Tokenizer> Load(const std::string& kind) {
  auto loaded = Tokenizer::FromFile(GoldenPath(kind));
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? *std::move(loaded) : nullptr;
}

// A tokenizer with three letters, whose other components a test sets.
nlohmann::json Small() {
  return nlohmann::json::parse(R"({"version": "1.0", "added_tokens": [],
      "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
}

std::string ErrorOf(const nlohmann::json& json) {
  const auto loaded = Tokenizer::FromJson(json.dump());
  return loaded.ok() ? "loaded" : std::string(loaded.status().message());
}

nlohmann::json Added(const std::string& content, int32_t id) {
  return {{"content", content}, {"id", id},        {"single_word", false},
          {"lstrip", false},    {"rstrip", false}, {"normalized", false},
          {"special", true}};
}

TEST(TokenizerTest, FindsTokensAndIds) {
  const auto gpt2 = Load("gpt2");
  const int32_t end = *gpt2->TokenToId("<|endoftext|>");
  EXPECT_EQ(gpt2->vocab_size(), end + 1);
  EXPECT_EQ(gpt2->IdToToken(end), "<|endoftext|>");
  EXPECT_TRUE(gpt2->IsSpecial(end));
  EXPECT_FALSE(gpt2->IsSpecial(0));
  EXPECT_EQ(gpt2->TokenToId("no such token"), std::nullopt);
  for (const int32_t id : {-1, end + 1, 1 << 30}) {
    EXPECT_EQ(gpt2->IdToToken(id), "");
    EXPECT_EQ(gpt2->TokenBytes(id), "");
    EXPECT_FALSE(gpt2->IsSpecial(id));
  }
}

TEST(TokenizerTest, GivesTheBytesOfATokenInRunningText) {
  const auto gpt2 = Load("gpt2");
  EXPECT_EQ(gpt2->TokenBytes(*gpt2->TokenToId("\u0120the")), " the");
  EXPECT_EQ(gpt2->TokenBytes(*gpt2->TokenToId("\u00C3")), "\xC3");
  const auto llama2 = Load("llama2");
  EXPECT_EQ(llama2->TokenBytes(*llama2->TokenToId("\u2581the")), " the");
  EXPECT_EQ(llama2->TokenBytes(*llama2->TokenToId("<0xE2>")), "\xE2");
}

TEST(TokenizerTest, RefusesTextThatIsInvalidOrTooLong) {
  const auto gpt2 = Load("gpt2");
  EXPECT_THAT(gpt2->Encode("abc\xFFz").status().ToString(), HasSubstr("invalid UTF-8 at byte 3"));
  EXPECT_THAT(gpt2->Encode("ab\xE2\x82").status().ToString(), HasSubstr("invalid UTF-8 at byte 2"));
  const auto status = gpt2->Encode("abcde", {.max_bytes = 4}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.ToString(), HasSubstr("text of 5 bytes; at most 4 are allowed"));
  EXPECT_THAT(gpt2->Decode({1, -1}, true).status().ToString(), HasSubstr("token id -1 is outside"));
  EXPECT_FALSE(gpt2->Decode({gpt2->vocab_size()}, true).ok());
}

TEST(TokenizerTest, SpecialTokensInTextAreOptional) {
  const auto llama3 = Load("llama3");
  const int32_t bos = *llama3->TokenToId("<|begin_of_text|>");
  const int32_t end = *llama3->TokenToId("<|im_end|>");
  EXPECT_THAT(*llama3->Encode("<|im_end|>"), ElementsAre(bos, end));
  EXPECT_THAT(*llama3->Encode("<|im_end|>", {.add_special = false}), ElementsAre(end));
  const Ids literal = *llama3->Encode("<|im_end|>", {.add_special = false, .parse_special = false});
  EXPECT_GT(literal.size(), 1U);
  EXPECT_EQ(*llama3->Decode(literal, true), "<|im_end|>");
}

TEST(TokenizerTest, NamesWhatItDoesNotSupport) {
  const auto with = [](const char* key, const char* value) {
    nlohmann::json json = Small();
    json[key] = nlohmann::json::parse(value);
    return ErrorOf(json);
  };
  EXPECT_THAT(with("normalizer", R"({"type": "BertNormalizer"})"),
              HasSubstr("\"BertNormalizer\" is not supported; supported: NFC, NFD"));
  EXPECT_THAT(with("pre_tokenizer", R"({"type": "Punctuation"})"),
              HasSubstr("\"Punctuation\" is not supported; supported: Split, ByteLevel"));
  EXPECT_THAT(with("pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [{"type": "X"}]})"),
              HasSubstr("\"X\" is not supported"));
  EXPECT_THAT(with("decoder", R"({"type": "WordPiece"})"), HasSubstr("ByteFallback"));
  EXPECT_THAT(with("decoder", R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
                   {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}]})"),
              HasSubstr("decoder Replace: is not supported here"));
  EXPECT_THAT(with("post_processor", R"({"type": "Y"})"), HasSubstr("TemplateProcessing"));
  EXPECT_THAT(with("version", R"("2.0")"), HasSubstr("\"1.0\" is expected"));
  EXPECT_THAT(with("model", R"({"type": "Unigram", "vocab": []})"), HasSubstr("supported: BPE"));
  EXPECT_THAT(with("pre_tokenizer", R"({"type": "Split", "invert": false, "behavior": "Isolated",
                   "pattern": {"Regex": "[a&&b]"}})"),
              HasSubstr("the set intersection && is not supported"));
}

TEST(TokenizerTest, RefusesABrokenModel) {
  const auto with = [](const char* key, const char* value) {
    nlohmann::json json = Small();
    json["model"][key] = nlohmann::json::parse(value);
    return ErrorOf(json);
  };
  EXPECT_THAT(with("merges", R"(["a c"])"), HasSubstr("merge 0 needs the token \"c\""));
  EXPECT_THAT(with("merges", R"([["b", "a"]])"), HasSubstr("merge 0 needs the token \"ba\""));
  EXPECT_THAT(with("merges", R"(["a b c"])"), HasSubstr("merge 0 is neither"));
  EXPECT_THAT(with("merges", "[1]"), HasSubstr("merge 0 is neither"));
  EXPECT_THAT(with("merges", "3"), HasSubstr("\"merges\" is a number; an array is expected"));
  EXPECT_THAT(with("vocab", R"({"a": 1, "b": 1})"), HasSubstr("which \"a\" has already"));
  EXPECT_THAT(with("vocab", R"({"a": -1})"), HasSubstr("outside 0 to"));
  EXPECT_THAT(with("vocab", R"({"a": 99999999999})"), HasSubstr("outside 0 to"));
  EXPECT_THAT(with("vocab", R"({"a": "x"})"), HasSubstr("an integer is expected"));
  EXPECT_THAT(with("dropout", "0.1"), HasSubstr("\"dropout\" is not supported"));
  EXPECT_THAT(with("end_of_word_suffix", R"("</w>")"), HasSubstr("\"end_of_word_suffix\""));
  EXPECT_THAT(with("byte_fallback", "1"), HasSubstr("a boolean is expected"));
  EXPECT_FALSE(Tokenizer::FromJson("{}").ok());
  EXPECT_FALSE(Tokenizer::FromJson("[]").ok());
  EXPECT_EQ(Tokenizer::FromFile("/no/such/file").status().code(), absl::StatusCode::kNotFound);
}

TEST(TokenizerTest, RefusesAddedTokensWhoseIdsDoNotFit) {
  nlohmann::json json = Small();
  json["added_tokens"] = {Added("<x>", 3), Added("<y>", 4), Added("a", 0)};
  EXPECT_EQ(ErrorOf(json), "loaded");
  json["added_tokens"] = {Added("<x>", 5)};
  EXPECT_THAT(ErrorOf(json), HasSubstr("\"<x>\" has id 5; its place in the vocabulary gives it 3"));
  json["model"]["vocab"]["b"] = 3;  // the vocabulary has three tokens, and 3 among its ids
  json["added_tokens"] = {Added("<x>", 3)};
  EXPECT_THAT(ErrorOf(json), HasSubstr("\"<x>\" has id 3, which \"b\" has already"));
}

TEST(TokenizerTest, UnknownCharactersFollowTheModel) {
  nlohmann::json json = Small();
  EXPECT_THAT(*(*Tokenizer::FromJson(json.dump()))->Encode("a?b"), ElementsAre(2)) << "they vanish";
  json["model"]["unk_token"] = "b";
  EXPECT_THAT(*(*Tokenizer::FromJson(json.dump()))->Encode("??a"), ElementsAre(1, 1, 0));
  json["model"]["fuse_unk"] = true;
  EXPECT_THAT(*(*Tokenizer::FromJson(json.dump()))->Encode("??a"), ElementsAre(1, 0));
  json["model"]["unk_token"] = "<unk>";
  const auto lost = Tokenizer::FromJson(json.dump());
  EXPECT_TRUE((*lost)->Encode("ab").ok());
  EXPECT_THAT((*lost)->Encode("a?").status().ToString(), HasSubstr("\"<unk>\" is not in its"));
}

TEST(IncrementalDecoderTest, ContinuesAPromptWithItsLeadingSpace) {
  for (const char* kind : {"llama2", "mistral", "metaspace"}) {
    const auto tokenizer = Load(kind);
    const Ids ids = *tokenizer->Encode("the text", {.add_special = false});
    for (const bool at_start : {true, false}) {
      IncrementalDecoder decoder(*tokenizer, at_start, /*skip_special=*/true);
      std::string text;
      for (const int32_t id : ids) {
        text += decoder.Push(id);
      }
      EXPECT_EQ(text + decoder.Flush(), at_start ? "the text" : " the text") << kind;
    }
  }
}

TEST(IncrementalDecoderTest, GivesCharactersAsSoonAsTheyAreCertain) {
  const auto llama2 = Load("llama2");
  const auto byte = [&](const char* token) { return *llama2->TokenToId(token); };
  IncrementalDecoder decoder(*llama2, true, true);
  EXPECT_EQ(decoder.Push(byte("<0xF0>")), "");
  EXPECT_EQ(decoder.Push(byte("<0x9F>")), "");
  EXPECT_EQ(decoder.Push(byte("<0x98>")), "");
  EXPECT_EQ(decoder.Push(byte("<0x80>")), "\U0001F600");
  EXPECT_EQ(decoder.Push(byte("<0xFF>")), "\uFFFD") << "no character has this byte";
  EXPECT_EQ(decoder.Push(byte("<0xE2>")), "");
  EXPECT_EQ(decoder.Push(byte("<0x41>")),
            "\uFFFD"
            "A");
  EXPECT_EQ(decoder.Push(byte("<0xE2>")), "");
  EXPECT_EQ(decoder.Push(*llama2->TokenToId("e")),
            "\uFFFD"
            "e");
  EXPECT_EQ(decoder.Push(byte("<0xC3>")), "");
  EXPECT_EQ(decoder.Push(1 << 20), "") << "an id that no token has";
  EXPECT_EQ(decoder.Flush(), "\uFFFD");
  EXPECT_EQ(decoder.Flush(), "");
}

TEST(BpeTest, MergesALongWordInLinearlyManySteps) {
  std::string text;
  constexpr size_t kBytes = size_t{1} << 20;
  for (const char* kind : {"gpt2", "llama2"}) {
    const auto loaded = Tokenizer::FromFile(GoldenPath(kind));
    for (const std::string_view unit : {"a", "the", "return", " "}) {
      std::string word;
      while (word.size() < kBytes) {
        word += unit;
      }
      const auto ids = (*loaded)->Encode(word, {.add_special = false});
      ASSERT_TRUE(ids.ok());
      EXPECT_EQ(*(*loaded)->Decode(*ids, true), word);
    }
  }
  // Tokens of 1, 2, 4, ... 512 letters: every merge is possible everywhere.
  nlohmann::json model = Small()["model"];
  model["vocab"] = {{"a", 0}};
  model["merges"] = nlohmann::json::array();
  for (int32_t i = 1; i < 10; ++i) {
    const std::string half(size_t{1} << (i - 1), 'a');
    model["vocab"][half + half] = i;
    model["merges"].push_back(half + " " + half);
  }
  const auto bpe = Bpe::Load(model);
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  Bpe::Scratch scratch;
  Ids ids;
  ASSERT_TRUE(bpe->Encode(std::string(kBytes, 'a'), &scratch, &ids).ok());
  EXPECT_EQ(ids, Ids(kBytes / 512, 9));
  EXPECT_LT(scratch.steps, 4 * kBytes);
}

TEST(RegexTest, TranslatesOniguruma) {
  EXPECT_EQ(*TranslateRegex(R"(\s+(?!\S)|\r\n|[\s\x{e9}])"),
            R"(\p{White_Space}+(?!\P{White_Space})|\r\n|[\p{White_Space}\x{e9}])");
  EXPECT_THAT(*TranslateRegex(R"(\d[a\p{L}])"),
              AllOf(HasSubstr(R"([\p{Nd}\x{10D40})"), HasSubstr(R"([a\p{L}\x{1C89})")))
      << "with what is newer than PCRE2";
  EXPECT_EQ(*TranslateRegex(R"(\p{Zs}{1,3}+\u00e9\h\p{Han})"),
            R"(\p{Zs}+\x{00e9}[0-9a-fA-F]\p{sc:Han})");
  EXPECT_EQ(*TranslateRegex(R"(a{,2}{x[]{}])"), R"(a{0,2}\{x[\]{}])");
  for (const char* refused :
       {"[[:alpha:]]", "[a&&b]", "a{2,3}+", R"(\g<1>)", "(?m:a)", "x(?i)y", R"([\W])", R"([\D])",
        R"([\P{L}])", R"(\pL)", "a\\", R"(\G)", "(?<n>a)"}) {
    EXPECT_FALSE(TranslateRegex(refused).ok()) << refused;
  }
}

TEST(RegexTest, StopsAtItsLimits) {
  const auto regex = Regex::Compile("(a|aa|b?a)*c|(a+)+d");
  ASSERT_TRUE(regex.ok());
  const absl::Status status =
      (*regex)->Visit(std::string(40, 'a'), [](size_t, size_t, bool) { return absl::OkStatus(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

TEST(Utf8Test, ReplacesMaximalIllFormedParts) {
  // The example of the Unicode Standard, table 3-8.
  EXPECT_EQ(ReplaceInvalidUtf8("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"),
            "a\uFFFD\uFFFD\uFFFD"
            "b\uFFFD"
            "c\uFFFD\uFFFD"
            "d");
  EXPECT_EQ(ReplaceInvalidUtf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(ReplaceInvalidUtf8("ok\xF0\x9F\x98"), "ok\uFFFD");
}

}  // namespace
}  // namespace evenflow
