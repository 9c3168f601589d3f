// A byte-level tokenizer.json for tests: ids 0 to 255 are the bytes, kTokenEos ends a text, and a
// few longer tokens let stop strings straddle and share tokens. Pure function.
#ifndef EVENFLOW_TESTS_SUPPORT_BYTE_TOKENIZER_H_
#define EVENFLOW_TESTS_SUPPORT_BYTE_TOKENIZER_H_

#include <cstdint>
#include <string>
#include <vector>

namespace evenflow {

inline constexpr int32_t kTokenEos = 256;
inline constexpr int32_t kFirstMergedToken = 257;
// Token kFirstMergedToken + i.
const std::vector<std::string>& MergedTokens();

std::string ByteTokenizerJson();

}  // namespace evenflow

#endif  // EVENFLOW_TESTS_SUPPORT_BYTE_TOKENIZER_H_
