#include "engine/model/weights.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace evenflow {
namespace {

constexpr int64_t kStagedElements = int64_t{1} << 20;  // read and uploaded at a time
constexpr size_t kNamesShown = 8;

bool Usable(absl::string_view dtype) {
  return dtype == "F32" || dtype == "F16" || dtype == "BF16";
}

int64_t Elements(const TensorPart& part) {
  int64_t elements = 1;
  for (const int64_t size : part.shape) {
    elements *= size;
  }
  return elements;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace

Weights::Weights(const Safetensors& checkpoint, BackendMemory& memory,
                 std::function<void(double)> progress)
    : checkpoint_(&checkpoint), memory_(&memory), progress_(std::move(progress)) {
  for (const auto& [name, entry] : checkpoint.tensors()) {
    bytes_total_ += entry.bytes;
  }
}

bool Weights::Has(absl::string_view name) const {
  return checkpoint_ != nullptr &&
         checkpoint_->tensors().find(name) != checkpoint_->tensors().end();
}

std::vector<int64_t> Weights::ShapeOf(absl::string_view name) const {
  return Has(name) ? checkpoint_->tensors().find(name)->second.shape : std::vector<int64_t>();
}

void Weights::Ignore(absl::string_view name) {
  used_.emplace(name);
}

void Weights::Fail(absl::Status status) {
  status_.Update(std::move(status));
}

const TensorEntry* Weights::Find(const TensorPart& part) {
  if (!part.optional && asked_names_.insert(part.name).second) {
    asked_.push_back(part);
  }
  if (checkpoint_ == nullptr || !status_.ok()) {
    return nullptr;
  }
  const auto found = checkpoint_->tensors().find(part.name);
  if (found == checkpoint_->tensors().end()) {
    if (!part.optional) {
      Fail(absl::InvalidArgumentError(absl::StrCat(
          "tensor ", part.name, " is missing; expected one of shape ", ShapeText(part.shape))));
    }
    return nullptr;
  }
  const TensorEntry& entry = found->second;
  const std::string where = absl::StrCat(checkpoint_->file_name(entry), ": tensor ", part.name);
  if (entry.shape != part.shape) {
    Fail(absl::InvalidArgumentError(absl::StrCat(where, " has shape ", ShapeText(entry.shape),
                                                 "; expected ", ShapeText(part.shape))));
    return nullptr;
  }
  if (!Usable(entry.dtype)) {
    Fail(absl::InvalidArgumentError(absl::StrCat(where, " has dtype ",
                                                 absl::CHexEscape(entry.dtype.substr(0, 40)),
                                                 "; allowed: F32, F16, BF16")));
    return nullptr;
  }
  if (used_.insert(part.name).second) {
    parameters_ += entry.elements;
  }
  return &entry;
}

void* Weights::Allocate(size_t bytes) {
  absl::StatusOr<void*> block = memory_->Allocate(std::max<size_t>(bytes, 1));
  if (!block.ok()) {
    Fail(block.status());
    return nullptr;
  }
  return *block;
}

void Weights::Advance(uint64_t bytes) {
  bytes_read_ += bytes;
  if (progress_ && bytes_total_ > 0) {
    progress_(std::min(1.0, static_cast<double>(bytes_read_) / static_cast<double>(bytes_total_)));
  }
}

bool Weights::ReadFloats(const TensorEntry& entry, float* to, float (*map)(float)) {
  std::vector<float> staged(static_cast<size_t>(std::min(entry.elements, kStagedElements)));
  for (int64_t first = 0; first < entry.elements; first += kStagedElements) {
    const int64_t count = std::min(kStagedElements, entry.elements - first);
    if (absl::Status status = checkpoint_->ReadFloats(entry, first, count, staged.data());
        !status.ok()) {
      Fail(std::move(status));
      return false;
    }
    if (map != nullptr) {
      std::transform(staged.begin(), staged.begin() + count, staged.begin(), map);
    }
    memory_->backend().Upload(to + first, staged.data(), static_cast<size_t>(count) * 4);
  }
  Advance(entry.bytes);
  return true;
}

bool Weights::ReadBFloats(const TensorEntry& entry, void* to) {
  constexpr uint64_t kStagedBytes = kStagedElements * 2;
  std::vector<std::byte> staged(std::min(entry.bytes, kStagedBytes));
  for (uint64_t first = 0; first < entry.bytes; first += kStagedBytes) {
    const size_t bytes = std::min(kStagedBytes, entry.bytes - first);
    if (absl::Status status = checkpoint_->ReadBytes(entry, first, bytes, staged.data());
        !status.ok()) {
      Fail(std::move(status));
      return false;
    }
    memory_->backend().Upload(static_cast<std::byte*>(to) + first, staged.data(), bytes);
  }
  Advance(entry.bytes);
  return true;
}

Weight Weights::Matrix(const std::vector<TensorPart>& parts) {
  Weight weight;
  weight.dtype = DType::kBF16;
  std::vector<const TensorEntry*> entries;
  for (const TensorPart& part : parts) {
    weight.rows += part.shape.at(0);
    weight.cols = part.shape.at(1);
    const TensorEntry* entry = Find(part);
    if (entry == nullptr) {
      continue;
    }
    entries.push_back(entry);
    weight.dtype = entry->dtype == "BF16" ? weight.dtype : DType::kF32;
  }
  if (checkpoint_ == nullptr || !status_.ok()) {
    return weight;
  }
  auto* to = static_cast<std::byte*>(
      Allocate(static_cast<size_t>(weight.rows * weight.cols) * ByteSize(weight.dtype)));
  if (to == nullptr) {
    return weight;
  }
  weight.data = to;
  for (const TensorEntry* entry : entries) {
    const bool read = weight.dtype == DType::kBF16
                          ? ReadBFloats(*entry, to)
                          : ReadFloats(*entry, reinterpret_cast<float*>(to));
    if (!read) {
      return weight;
    }
    to += static_cast<size_t>(entry->elements) * ByteSize(weight.dtype);
  }
  return weight;
}

const float* Weights::Vector(const std::vector<TensorPart>& parts, float (*map)(float)) {
  std::vector<const TensorEntry*> entries;
  int64_t elements = 0;
  bool any = false;
  for (const TensorPart& part : parts) {
    entries.push_back(Find(part));
    any = any || entries.back() != nullptr;
    elements += Elements(part);
  }
  if (!any || !status_.ok()) {
    return nullptr;
  }
  auto* vector = static_cast<float*>(Allocate(static_cast<size_t>(elements) * sizeof(float)));
  if (vector == nullptr) {
    return nullptr;
  }
  float* to = vector;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (entries[i] != nullptr && !ReadFloats(*entries[i], to, map)) {
      return nullptr;
    }
    to += Elements(parts[i]);
  }
  return vector;
}

std::vector<float> Weights::Numbers(const TensorPart& part) {
  const TensorEntry* entry = Find(part);
  if (entry == nullptr || !status_.ok()) {
    return {};
  }
  std::vector<float> numbers(static_cast<size_t>(Elements(part)));
  status_.Update(checkpoint_->ReadFloats(*entry, 0, entry->elements, numbers.data()));
  Advance(entry->bytes);
  return numbers;
}

const float* Weights::Constant(const std::vector<float>& values) {
  if (checkpoint_ == nullptr || !status_.ok()) {
    return nullptr;
  }
  void* to = Allocate(values.size() * sizeof(float));
  if (to != nullptr) {
    memory_->backend().Upload(to, values.data(), values.size() * sizeof(float));
  }
  return static_cast<const float*>(to);
}

absl::Status Weights::Finish() const {
  if (!status_.ok() || checkpoint_ == nullptr) {
    return status_;
  }
  std::vector<std::string> unknown;
  for (const auto& [name, entry] : checkpoint_->tensors()) {
    if (used_.find(name) == used_.end() && !absl::EndsWith(name, ".rotary.inv_freq")) {
      unknown.push_back(absl::CHexEscape(name.substr(0, 200)));
    }
  }
  if (unknown.empty()) {
    return absl::OkStatus();
  }
  const size_t more = unknown.size() - std::min(unknown.size(), kNamesShown);
  unknown.resize(unknown.size() - more);
  return absl::InvalidArgumentError(
      absl::StrCat("unexpected tensors ", absl::StrJoin(unknown, ", "),
                   more > 0 ? absl::StrCat(" and ", more, " more") : "",
                   "; the config describes a model without them"));
}

}  // namespace evenflow
