#include "engine/model/safetensors.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <sys/stat.h>

#include "engine/model/safetensors_writer.h"

#include "gmock/gmock.h"
#include "tests/engine/model/temp_directory.h"

namespace evenflow {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// A file of this header, with `data_bytes` bytes of data behind it.
std::string FileOf(const std::string& header, size_t data_bytes) {
  std::string file(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data_bytes, '\x3c');
}

// The error of opening such a file; "" when there is none.
std::string ErrorOf(const std::string& file) {
  TempDirectory directory;
  directory.Write("model.safetensors", file);
  return std::string(Safetensors::Open(directory.path()).status().message());
}

std::string Entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

TEST(SafetensorsTest, ReadsEveryFloatTypeExactly) {
  TempDirectory directory;
  const float f32[] = {1.5f, -0x1p-149f};
  const uint16_t f16[] = {0x3c00, 0x8001, 0x7bff, 0xfc00, 0x7e00};  // 1, -2^-24, 65504, -inf, NaN
  const uint16_t bf16[] = {0x3f80, 0xc0a0, 0x0001};                 // 1, -5, 2^-133
  absl::StatusOr<SafetensorsWriter> writer =
      SafetensorsWriter::Create(directory.File("model.safetensors"),
                                {{"b", "BF16", {3}}, {"a", "F32", {1, 2}}, {"h", "F16", {5}}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE(writer->Append(bf16, sizeof(bf16)).ok());
  ASSERT_TRUE(writer->Append(f32, sizeof(f32)).ok());  // not aligned to 4 bytes in the file
  ASSERT_TRUE(writer->Append(f16, sizeof(f16)).ok());
  ASSERT_TRUE(writer->Finish().ok());

  const absl::StatusOr<Safetensors> file = Safetensors::Open(directory.path());
  ASSERT_TRUE(file.ok()) << file.status();
  const auto read = [&](const std::string& name) {
    const TensorEntry& entry = file->tensors().at(name);
    std::vector<float> values(static_cast<size_t>(entry.elements));
    EXPECT_TRUE(file->ReadFloats(entry, 0, entry.elements, values.data()).ok());
    return values;
  };
  EXPECT_EQ(read("a"), std::vector<float>({1.5f, -0x1p-149f}));
  EXPECT_EQ(read("b"), std::vector<float>({1, -5, 0x1p-133f}));
  const std::vector<float> halves = read("h");
  EXPECT_EQ(std::vector<float>(halves.begin(), halves.begin() + 4),
            std::vector<float>({1, -0x1p-24f, 65504, -std::numeric_limits<float>::infinity()}));
  EXPECT_TRUE(std::isnan(halves[4]));
  EXPECT_EQ(file->tensors().at("a").shape, std::vector<int64_t>({1, 2}));
}

TEST(SafetensorsTest, RefusesBadLengths) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("model.safetensors: has 0 bytes"));
  EXPECT_THAT(ErrorOf(std::string(8, '\xff')), HasSubstr("a header of 18446744073709551615 bytes"));
  EXPECT_THAT(ErrorOf(FileOf("{}", 0).substr(0, 9)), HasSubstr("a header of 2 bytes"));
  EXPECT_THAT(ErrorOf(FileOf("{}", 3)), HasSubstr("hold 0 bytes, but the file has 3"));
}

TEST(SafetensorsTest, RefusesBadHeaders) {
  EXPECT_THAT(ErrorOf(FileOf("[]", 0)), HasSubstr("must be an object"));
  EXPECT_THAT(ErrorOf(FileOf("{", 0)), HasSubstr("header: JSON"));
  EXPECT_THAT(ErrorOf(FileOf(R"({"a":1})", 0)), HasSubstr("tensor a: must be an object"));
  const std::string entry = Entry("F32", "[1]", "[0,4]");
  EXPECT_EQ(ErrorOf(FileOf(R"({"a":)" + entry + "}", 4)), "");
  EXPECT_THAT(ErrorOf(FileOf(R"({"a":)" + entry + R"(,"a":)" + entry + "}", 4)),
              HasSubstr("duplicate key \"a\""));
}

TEST(SafetensorsTest, RefusesBadShapesAndOffsets) {
  const auto error = [](const std::string& shape, const std::string& offsets) {
    return ErrorOf(FileOf(R"({"t":)" + Entry("F32", shape, offsets) + "}", 16));
  };
  EXPECT_EQ(error("[2,2]", "[0,16]"), "");
  EXPECT_THAT(error("[2,3]", "[0,16]"), HasSubstr("span 16 bytes, but F32 [2, 3] needs 6 x 4"));
  EXPECT_THAT(error("[4]", "[0,20]"), HasSubstr("not inside the file's 16 bytes"));
  EXPECT_THAT(error("[4]", "[16,0]"), HasSubstr("not inside"));
  EXPECT_THAT(error("[4]", "[-16,0]"), HasSubstr("two integers"));
  EXPECT_THAT(error("[4]", "[0.0,16.0]"), HasSubstr("two integers"));
  EXPECT_THAT(error("[4]", "[0]"), HasSubstr("two integers"));
  EXPECT_THAT(error("[4]", "[0,18446744073709551615]"), HasSubstr("two integers"));
  EXPECT_THAT(error("[-4]", "[0,16]"), HasSubstr("shape holds -4"));
  EXPECT_THAT(error("[4294967296,4294967296]", "[0,16]"), HasSubstr("more than 2^63 elements"));
  EXPECT_THAT(error("[4611686018427387904]", "[0,16]"), HasSubstr("span 16 bytes"));
  EXPECT_THAT(error("[0]", "[0,0]"), HasSubstr("hold 0 bytes, but the file has 16"));
}

TEST(SafetensorsTest, RefusesOverlapsAndGaps) {
  const auto two = [](const std::string& first, const std::string& second) {
    return ErrorOf(FileOf(
        R"({"a":)" + Entry("F32", "[1]", first) + R"(,"b":)" + Entry("F32", "[1]", second) + "}",
        8));
  };
  EXPECT_EQ(two("[4,8]", "[0,4]"), "");
  EXPECT_THAT(two("[0,4]", "[0,4]"), HasSubstr("inside the tensor before it"));
  EXPECT_THAT(two("[0,4]", "[2,6]"), AllOf(HasSubstr("tensor b"), HasSubstr("expected 4")));
  EXPECT_THAT(two("[2,6]", "[6,10]"), HasSubstr("not inside"));
  EXPECT_THAT(ErrorOf(FileOf(R"({"a":)" + Entry("F32", "[1]", "[4,8]") + "}", 8)),
              HasSubstr("after a gap"));
}

TEST(SafetensorsTest, AFileThatShrinksIsAnErrorNotACrash) {
  TempDirectory directory;
  directory.Write("model.safetensors",
                  FileOf(R"({"t":)" + Entry("F32", "[4]", "[0,16]") + "}", 16));
  const absl::StatusOr<Safetensors> file = Safetensors::Open(directory.path());
  ASSERT_TRUE(file.ok()) << file.status();
  std::filesystem::resize_file(directory.File("model.safetensors"), 40);
  float values[4];
  const absl::Status status = file->ReadFloats(file->tensors().at("t"), 0, 4, values);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
}

TEST(SafetensorsTest, MissingAndIrregularFiles) {
  TempDirectory directory;
  EXPECT_EQ(Safetensors::Open(directory.path()).status().code(), absl::StatusCode::kNotFound);
  ASSERT_EQ(mkfifo(directory.File("model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(std::string(Safetensors::Open(directory.path()).status().message()),
              HasSubstr("not a regular file"));
}

class ShardsTest : public testing::Test {
 protected:
  ShardsTest() {
    directory_.Write("one", FileOf(R"({"a":)" + Entry("F32", "[1]", "[0,4]") + "}", 4));
    directory_.Write("two", FileOf(R"({"b":)" + Entry("F32", "[2]", "[0,8]") + "}", 8));
  }

  absl::StatusOr<Safetensors> Open(const std::string& weight_map) {
    directory_.Write("model.safetensors.index.json", R"({"weight_map":)" + weight_map + "}");
    return Safetensors::Open(directory_.path());
  }

  std::string Error(const std::string& weight_map) {
    return std::string(Open(weight_map).status().message());
  }

  TempDirectory directory_;
};

TEST_F(ShardsTest, ReadsAllShardsAlsoThroughLinks) {
  TempDirectory blobs;
  std::filesystem::rename(directory_.File("two"), blobs.File("hash"));
  std::filesystem::create_symlink(blobs.File("hash"), directory_.File("two"));
  const absl::StatusOr<Safetensors> shards = Open(R"({"a":"one","b":"two"})");
  ASSERT_TRUE(shards.ok()) << shards.status();
  EXPECT_EQ(shards->tensors().size(), 2u);
  EXPECT_THAT(shards->file_name(shards->tensors().at("b")), testing::EndsWith("/two"));
}

TEST_F(ShardsTest, RefusesBadIndexes) {
  EXPECT_THAT(Error(R"({"a":"../one"})"), HasSubstr("a file in the same directory"));
  EXPECT_THAT(Error(R"({"a":"/etc/passwd"})"), HasSubstr("a file in the same directory"));
  EXPECT_THAT(Error(R"({"a":".."})"), HasSubstr("a file in the same directory"));
  EXPECT_THAT(Error(R"({"a":1})"), HasSubstr("a file in the same directory"));
  EXPECT_THAT(Error(R"({"a":"three"})"), HasSubstr("three: cannot be opened"));
  EXPECT_THAT(Error(R"({"a":"two","b":"two"})"), HasSubstr("which does not hold it"));
  EXPECT_THAT(Error(R"({"a":"one","a":"two"})"), HasSubstr("duplicate key"));
  EXPECT_THAT(Error("3"), HasSubstr("weight_map is an object"));
  std::filesystem::copy(directory_.File("one"), directory_.File("again"));
  EXPECT_THAT(Error(R"({"a":"one","b":"again"})"), HasSubstr("is also in"));
}

TEST(SafetensorsWriterTest, LeavesNothingUnlessFinished) {
  TempDirectory directory;
  {
    absl::StatusOr<SafetensorsWriter> writer =
        SafetensorsWriter::Create(directory.File("x.safetensors"), {{"a", "F32", {1}}});
    ASSERT_TRUE(writer.ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  EXPECT_THAT(std::string(SafetensorsWriter::Create(directory.File("no/x"), {}).status().message()),
              HasSubstr("no/x: cannot be written"));
}

}  // namespace
}  // namespace evenflow
