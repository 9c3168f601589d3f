#include "engine/model/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/json.h"
#include "engine/model/files.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace evenflow {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxRank = 16;

// Bytes of an element; 0 for a type unknown here, whose tensors cannot be checked, nor used.
uint64_t ElementBytes(absl::string_view dtype) {
  constexpr std::pair<absl::string_view, uint64_t> kSizes[] = {
      {"F64", 8},     {"I64", 8},     {"U64", 8},  {"F32", 4}, {"I32", 4},
      {"U32", 4},     {"F16", 2},     {"BF16", 2}, {"I16", 2}, {"U16", 2},
      {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I8", 1},   {"U8", 1},  {"BOOL", 1}};
  for (const auto& [name, bytes] : kSizes) {
    if (name == dtype) {
      return bytes;
    }
  }
  return 0;
}

absl::Status Bad(absl::string_view tensor, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor, ": ", what));
}

bool ReadUnsigned(const nlohmann::json& value, uint64_t* out) {
  if (!value.is_number_unsigned()) {
    return false;
  }
  *out = value.get<uint64_t>();
  return *out <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
}

// Fills shape and elements.
absl::Status ReadShape(const std::string& name, const nlohmann::json& shape, TensorEntry* entry) {
  if (!shape.is_array() || shape.size() > kMaxRank) {
    return Bad(name, absl::StrCat("shape must be a list of at most ", kMaxRank, " sizes"));
  }
  entry->elements = 1;
  for (const nlohmann::json& item : shape) {
    uint64_t size = 0;
    if (!ReadUnsigned(item, &size)) {
      return Bad(name, absl::StrCat("shape holds ", item.dump().substr(0, 40),
                                    "; sizes are integers in [0, 2^63)"));
    }
    entry->shape.push_back(static_cast<int64_t>(size));
    if (__builtin_mul_overflow(entry->elements, entry->shape.back(), &entry->elements)) {
      return Bad(name, absl::StrCat("shape [", absl::StrJoin(entry->shape, ", "),
                                    "...] has more than 2^63 elements"));
    }
  }
  return absl::OkStatus();
}

// Reads one member of the header. Offsets stay relative to the data.
absl::StatusOr<TensorEntry> ReadEntry(const std::string& name, const nlohmann::json& value,
                                      uint64_t data_bytes) {
  if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") ||
      !value.contains("data_offsets")) {
    return Bad(name, "must be an object with dtype, shape and data_offsets");
  }
  TensorEntry entry;
  const nlohmann::json& dtype = value["dtype"];
  if (!dtype.is_string()) {
    return Bad(name, "dtype must be a string");
  }
  entry.dtype = dtype.get<std::string>();
  if (absl::Status status = ReadShape(name, value["shape"], &entry); !status.ok()) {
    return status;
  }
  const nlohmann::json& offsets = value["data_offsets"];
  uint64_t end = 0;
  if (!offsets.is_array() || offsets.size() != 2 || !ReadUnsigned(offsets[0], &entry.begin) ||
      !ReadUnsigned(offsets[1], &end)) {
    return Bad(name, "data_offsets must be two integers in [0, 2^63)");
  }
  if (entry.begin > end || end > data_bytes) {
    return Bad(name, absl::StrCat("data_offsets [", entry.begin, ", ", end,
                                  "] are not inside the file's ", data_bytes, " bytes of data"));
  }
  entry.bytes = end - entry.begin;
  const uint64_t element = ElementBytes(entry.dtype);
  uint64_t expected = 0;
  if (element != 0 &&
      (__builtin_mul_overflow(static_cast<uint64_t>(entry.elements), element, &expected) ||
       expected != entry.bytes)) {
    return Bad(name, absl::StrCat("data_offsets span ", entry.bytes, " bytes, but ", entry.dtype,
                                  " [", absl::StrJoin(entry.shape, ", "), "] needs ",
                                  entry.elements, " x ", element));
  }
  return entry;
}

// The data must be covered exactly: whatever hides between tensors is a sign of damage.
absl::Status CheckCover(const TensorTable& tensors, uint64_t data_bytes) {
  std::vector<std::pair<const TensorEntry*, const std::string*>> order;
  for (const auto& [name, entry] : tensors) {
    order.emplace_back(&entry, &name);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first->begin, a.first->bytes) < std::pair(b.first->begin, b.first->bytes);
  });
  uint64_t end = 0;
  for (const auto& [entry, name] : order) {
    if (entry->begin != end) {
      return Bad(*name, absl::StrCat(
                            "data begins at ", entry->begin,
                            entry->begin < end ? ", inside the tensor before it" : ", after a gap",
                            "; expected ", end));
    }
    end += entry->bytes;
  }
  if (end != data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the tensors hold ", end, " bytes, but the file has ", data_bytes, " bytes of data"));
  }
  return absl::OkStatus();
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in fp32
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

}  // namespace

struct Safetensors::File {
  std::string path;
  FileDescriptor descriptor;
};

Safetensors::Safetensors() = default;
Safetensors::Safetensors(Safetensors&&) noexcept = default;
Safetensors& Safetensors::operator=(Safetensors&&) noexcept = default;
Safetensors::~Safetensors() = default;

absl::StatusOr<uint64_t> SafetensorsHeaderBytes(absl::string_view first_bytes,
                                                uint64_t file_bytes) {
  if (first_bytes.size() < 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", file_bytes, " bytes; a safetensors file has at least 8"));
  }
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) {
    length = length << 8 | static_cast<uint8_t>(first_bytes[i]);
  }
  if (length > kMaxHeaderBytes || length > file_bytes - 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("announces a header of ", length, " bytes; the file has ", file_bytes - 8,
                     " bytes after the length, and at most ", kMaxHeaderBytes, " are allowed"));
  }
  return length + 8;
}

absl::StatusOr<TensorTable> ParseSafetensorsHeader(const std::string& header, uint64_t file_bytes) {
  const uint64_t data_begin = header.size() + 8;
  const uint64_t data_bytes = file_bytes - data_begin;
  JsonLimits limits;
  limits.max_bytes = kMaxHeaderBytes;
  limits.max_depth = 4;
  absl::StatusOr<nlohmann::json> root = ParseJson(header, limits);
  if (!root.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("header: ", root.status().message()));
  }
  if (!root->is_object()) {
    return absl::InvalidArgumentError("header: must be an object of tensors");
  }
  TensorTable tensors;
  for (const auto& [name, value] : root->items()) {
    if (name == "__metadata__") {
      continue;
    }
    absl::StatusOr<TensorEntry> entry =
        ReadEntry(absl::CHexEscape(name.substr(0, 200)), value, data_bytes);
    if (!entry.ok()) {
      return entry.status();
    }
    tensors.emplace(name, *std::move(entry));
  }
  if (absl::Status status = CheckCover(tensors, data_bytes); !status.ok()) {
    return status;
  }
  for (auto& [name, entry] : tensors) {
    entry.begin += data_begin;
  }
  return tensors;
}

absl::StatusOr<Safetensors> Safetensors::Open(const std::string& path) {
  Safetensors checkpoint;
  std::string file = path;
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
    file = absl::StrCat(path, "/model.safetensors");
    const std::string index = absl::StrCat(file, ".index.json");
    if (access(file.c_str(), F_OK) != 0 && access(index.c_str(), F_OK) == 0) {
      absl::Status status = checkpoint.AddShards(path, index);
      return status.ok() ? absl::StatusOr<Safetensors>(std::move(checkpoint)) : status;
    }
  }
  absl::Status status = checkpoint.AddFile(file);
  return status.ok() ? absl::StatusOr<Safetensors>(std::move(checkpoint)) : status;
}

absl::Status Safetensors::AddFile(const std::string& path) {
  const auto located = [&path](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  };
  uint64_t file_bytes = 0;
  absl::StatusOr<FileDescriptor> descriptor = OpenRegularFile(path, &file_bytes);
  if (!descriptor.ok()) {
    return descriptor.status();
  }
  files_.push_back({path, *std::move(descriptor)});
  const FileDescriptor& file = files_.back().descriptor;
  std::string header(std::min<uint64_t>(8, file_bytes), '\0');
  if (absl::Status status = file.ReadAt(0, header.size(), header.data()); !status.ok()) {
    return located(status);
  }
  absl::StatusOr<uint64_t> header_bytes = SafetensorsHeaderBytes(header, file_bytes);
  if (!header_bytes.ok()) {
    return located(header_bytes.status());
  }
  header.resize(*header_bytes - 8);
  if (absl::Status status = file.ReadAt(8, header.size(), header.data()); !status.ok()) {
    return located(status);
  }
  absl::StatusOr<TensorTable> tensors = ParseSafetensorsHeader(header, file_bytes);
  if (!tensors.ok()) {
    return located(tensors.status());
  }
  for (auto& [name, entry] : *tensors) {
    entry.file = static_cast<int>(files_.size()) - 1;
    const auto [other, added] = tensors_.emplace(name, std::move(entry));
    if (!added) {
      return located(Bad(name, absl::StrCat("is also in ", file_name(other->second))));
    }
  }
  return absl::OkStatus();
}

absl::Status Safetensors::AddShards(const std::string& directory, const std::string& index_path) {
  const auto bad = [&index_path](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": ", what));
  };
  absl::StatusOr<std::string> text = ReadSmallFile(index_path, kMaxHeaderBytes);
  if (!text.ok()) {
    return text.status();
  }
  absl::StatusOr<nlohmann::json> root = ParseJson(*text);
  if (!root.ok()) {
    return bad(root.status().message());
  }
  if (!root->is_object() || !root->contains("weight_map") || !(*root)["weight_map"].is_object()) {
    return bad("must be an object whose weight_map is an object of tensor names and file names");
  }
  const nlohmann::json& weight_map = (*root)["weight_map"];
  std::set<std::string> names;
  for (const auto& [tensor, file] : weight_map.items()) {
    // A plain name stays inside the directory. Hugging Face's cache makes it a symbolic link, which
    // opening follows.
    if (!file.is_string() || file.get_ref<const std::string&>().find('/') != std::string::npos ||
        file == "" || file == "." || file == "..") {
      return bad(absl::StrCat("weight_map.", absl::CHexEscape(tensor.substr(0, 200)), " is ",
                              file.dump().substr(0, 200),
                              "; expected the name of a file in the same directory"));
    }
    names.insert(file.get<std::string>());
  }
  for (const std::string& name : names) {
    if (absl::Status status = AddFile(absl::StrCat(directory, "/", name)); !status.ok()) {
      return status;
    }
  }
  for (const auto& [tensor, file] : weight_map.items()) {
    const auto found = tensors_.find(tensor);
    const std::string expected = absl::StrCat(directory, "/", file.get<std::string>());
    if (found == tensors_.end() || file_name(found->second) != expected) {
      return bad(absl::StrCat("weight_map places ", absl::CHexEscape(tensor.substr(0, 200)), " in ",
                              expected, ", which does not hold it"));
    }
  }
  return absl::OkStatus();
}

const std::string& Safetensors::file_name(const TensorEntry& tensor) const {
  return files_[static_cast<size_t>(tensor.file)].path;
}

absl::Status Safetensors::ReadBytes(const TensorEntry& tensor, uint64_t offset, size_t bytes,
                                    void* to) const {
  const File& file = files_[static_cast<size_t>(tensor.file)];
  absl::Status status = file.descriptor.ReadAt(tensor.begin + offset, bytes, to);
  return status.ok() ? status
                     : absl::Status(status.code(), absl::StrCat(file.path, ": ", status.message()));
}

absl::Status Safetensors::ReadFloats(const TensorEntry& tensor, int64_t first, int64_t count,
                                     float* to) const {
  const auto size = static_cast<size_t>(count);
  if (tensor.dtype == "F32") {
    return ReadBytes(tensor, static_cast<uint64_t>(first) * 4, size * 4, to);
  }
  // Halves are read into the upper half of the output and widened from the front.
  auto* halves = reinterpret_cast<unsigned char*>(to) + size * 2;
  absl::Status status = ReadBytes(tensor, static_cast<uint64_t>(first) * 2, size * 2, halves);
  if (!status.ok()) {
    return status;
  }
  const bool bf16 = tensor.dtype == "BF16";
  for (size_t i = 0; i < size; ++i) {
    uint16_t half = 0;
    std::memcpy(&half, halves + i * 2, 2);
    to[i] = bf16 ? std::bit_cast<float>(static_cast<uint32_t>(half) << 16) : HalfToFloat(half);
  }
  return absl::OkStatus();
}

}  // namespace evenflow
