// The README's table of memories has each one, with the bytes that it takes.
#include <fstream>
#include <iterator>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/memory_sessions.h"

namespace evenflow {
namespace {

// 1234567 as "1,234,567".
std::string Grouped(size_t number) {
  std::string text = std::to_string(number);
  for (size_t at = text.size(); at > 3;) {
    at -= 3;
    text.insert(at, ",");
  }
  return text;
}

TEST(MemoryTableTest, NamesEveryMemoryAndItsBytes) {
  std::ifstream file(EVENFLOW_SOURCE_DIR "/README.md");
  const std::string readme{std::istreambuf_iterator<char>(file), {}};
  for (const MemoryKind memory : kMemoryKinds) {
    const MemorySetup setup = Fitted({memory, PlainShape(1, 128, 256), Window(), DType::kF32});
    const std::string row =
        "\n| `" + std::string(Name(memory)) + "` | " + Grouped(SlotBytes(setup)) + " | ";
    EXPECT_NE(readme.find(row), readme.npos) << "the table has no row that begins with" << row;
  }
}

}  // namespace
}  // namespace evenflow
