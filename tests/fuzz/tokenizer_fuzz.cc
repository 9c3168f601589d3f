// Input: one byte that picks the mode, then
//   0 to 63: a tokenizer.json, a NUL byte, a text;
//   64 to 127: an RWKV vocabulary behind one that has every byte, a NUL byte, a text;
//   128 on: a text for one of the golden tokenizers, picked by the byte.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/tokenizer.h"
#include "engine/utf8.h"

namespace {

using evenflow::IncrementalDecoder;
using evenflow::Tokenizer;

void Check(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::abort();
  }
}

const Tokenizer& Golden(size_t index) {
  static const std::vector<std::unique_ptr<Tokenizer>> all = [] {
    std::vector<std::unique_ptr<Tokenizer>> loaded;
    for (const char* kind :
         {"gpt2", "llama3", "qwen2", "llama2", "mistral", "metaspace", "mixed"}) {
      auto one = Tokenizer::FromFile(std::string(EVENFLOW_SOURCE_DIR) +
                                     "/tests/engine/tokenizer/goldens/" + kind + ".tokenizer.json");
      Check(one.ok(), "golden tokenizers load");
      loaded.push_back(*std::move(one));
    }
    auto rwkv =
        Tokenizer::FromFile(EVENFLOW_SOURCE_DIR "/tests/engine/tokenizer/goldens/rwkv_vocab.txt");
    Check(rwkv.ok(), "the golden vocabulary loads");
    loaded.push_back(*std::move(rwkv));
    return loaded;
  }();
  return *all[index % all.size()];
}

// Whatever the tokenizer: ids are in range, text is valid UTF-8, streams give whole characters.
void Exercise(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.Encode(text);
  if (!ids.ok()) {
    return;
  }
  for (const bool skip_special : {false, true}) {
    const auto decoded = tokenizer.Decode(*ids, skip_special);
    Check(decoded.ok(), "what was encoded decodes");
    Check(evenflow::ValidUtf8Prefix(*decoded) == decoded->size(), "decoded text is valid");
    IncrementalDecoder stream(tokenizer, /*at_start=*/true, skip_special);
    std::string streamed;
    for (const int32_t id : *ids) {
      const std::string piece = stream.Push(id);
      Check(evenflow::ValidUtf8Prefix(piece) == piece.size(), "pieces are whole characters");
      streamed += piece;
    }
    streamed += stream.Flush();
    if (decoded->find(evenflow::kReplacementCharacter) == std::string::npos) {
      Check(streamed == *decoded, "the stream is the decoded text");
    }
  }
}

// Lines for the ids 1 to 256.
std::string ByteLines() {
  std::string lines;
  for (int byte = 0; byte < 256; ++byte) {
    char line[32];
    std::snprintf(line, sizeof(line), "%d b'\\x%02x' 1\n", byte + 1, static_cast<unsigned>(byte));
    lines += line;
  }
  return lines;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] >= 128) {
    Exercise(Golden(data[0] - 128U), rest);
    return 0;
  }
  const size_t end = rest.find('\0');
  static const std::string bytes = ByteLines();
  const auto tokenizer =
      data[0] < 64 ? Tokenizer::FromJson(rest.substr(0, end))
                   : Tokenizer::FromRwkvVocabulary(bytes + std::string(rest.substr(0, end)));
  if (tokenizer.ok()) {
    Exercise(**tokenizer, end == rest.npos ? "ab a" : rest.substr(end + 1));
  }
  return 0;
}
