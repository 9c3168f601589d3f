#include "engine/host_slots.h"

#include <algorithm>
#include <chrono>
#include <system_error>

namespace evenflow {
namespace {

constexpr size_t kBlockBytes = size_t{64} << 20;

}  // namespace

HostSlots::HostSlots(Backend& backend, size_t slot_bytes, int limit)
    : backend_(backend),
      slot_bytes_(slot_bytes),
      block_slots_(static_cast<int>(std::max<size_t>(1, kBlockBytes / slot_bytes))),
      limit_(limit) {}

HostSlots::~HostSlots() {
  if (next_block_.valid()) {
    backend_.FreeHost(next_block_.get());
  }
  for (std::byte* const block : blocks_) {
    backend_.FreeHost(block);
  }
}

int HostSlots::NextBlock() const {
  return std::min(block_slots_, limit_ - ready_);
}

void HostSlots::Grow() {
  if (growing() || NextBlock() <= 0) {
    return;
  }
  const size_t bytes = static_cast<size_t>(NextBlock()) * slot_bytes_;
  try {
    next_block_ =
        std::async(std::launch::async, [this, bytes] { return backend_.AllocateHost(bytes); });
  } catch (const std::system_error&) {  // no thread for it
    limit_ = ready_;
  }
}

void HostSlots::Poll() {
  if (!growing() || next_block_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    return;
  }
  const int slots = NextBlock();
  blocks_.reserve(blocks_.size() + 1);
  free_.reserve(static_cast<size_t>(ready_ + slots));
  void* const block = next_block_.get();
  if (block == nullptr) {
    limit_ = ready_;
    return;
  }
  blocks_.push_back(static_cast<std::byte*>(block));
  for (int slot = ready_ + slots - 1; slot >= ready_; --slot) {
    free_.push_back(slot);
  }
  ready_ += slots;
}

std::optional<int> HostSlots::Acquire() {
  if (free_.empty()) {
    return std::nullopt;
  }
  const int slot = free_.back();
  free_.pop_back();
  return slot;
}

void HostSlots::Release(int slot) {
  backend_.WipeHost(data(slot), slot_bytes_);
  free_.push_back(slot);
}

std::byte* HostSlots::data(int slot) const {
  return blocks_[static_cast<size_t>(slot / block_slots_)] +
         static_cast<size_t>(slot % block_slots_) * slot_bytes_;
}

}  // namespace evenflow
